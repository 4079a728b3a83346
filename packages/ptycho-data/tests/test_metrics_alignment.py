"""What alignment removes (specs/metrics.md, MET-1 to MET-7)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_data.metrics import align, compare, largest_rectangle, scanned_area
from ptycho_data.simulate import OBJECTS

HEIGHT, WIDTH, MARGIN = 72, 80, 24


def analytic(y, x):
    """A smooth complex field, known at every real coordinate; phases of about +-1.3 rad."""
    amplitude = 0.8 + 0.1 * np.sin(0.21 * x + 0.13 * y) + 0.05 * np.cos(0.25 * y - 0.1 * x + 1)
    phase = 0.6 * np.sin(0.17 * x - 0.2 * y) + 0.4 * np.cos(0.11 * x + 0.2 * y)
    return amplitude * np.exp(1j * (phase + 0.8 * np.exp(-((x - 55) ** 2 + (y - 60) ** 2) / 300)))


def truth_array():
    y, x = np.indices((HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)).astype(float)
    return analytic(y, x)


def estimate_array(*, shift=(0.0, 0.0), ramp=(0.0, 0.0), scale=1.0, phase=0.0):
    y, x = np.indices((HEIGHT, WIDTH)).astype(float) + MARGIN
    return scale * np.exp(1j * (phase + ramp[0] * y + ramp[1] * x)) * analytic(y - shift[0], x - shift[1])


OFFSET = {"offset_yx_px": (MARGIN, MARGIN)}
SHIFTS = st.one_of(
    st.just((0.0, 0.0)),
    st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
    st.tuples(st.integers(-8, 8).map(float), st.integers(-8, 8).map(float)),
)
RAMPS = st.one_of(st.just((0.0, 0.0)), st.tuples(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8)))


@given(shift=SHIFTS, ramp=RAMPS, scale=st.floats(1e-3, 1e3), phase=st.floats(-3, 3))
def test_shift_ramp_scale_and_phase_are_removed_and_reported(shift, ramp, scale, phase):
    """MET-6, against the analytic object."""
    done = align(estimate_array(shift=shift, ramp=ramp, scale=scale, phase=phase), truth_array(), **OFFSET)
    np.testing.assert_allclose(done.shift_yx_px, shift, atol=1e-5)
    np.testing.assert_allclose(done.ramp_yx_rad_per_px, ramp, atol=1e-6)
    assert done.scale * scale == pytest.approx(1, abs=1e-5)
    assert done.mask.all()
    y, x = np.indices((HEIGHT, WIDTH)).astype(float) + MARGIN
    np.testing.assert_allclose(done.estimate, analytic(y - shift[0], x - shift[1]), atol=2e-6)
    np.testing.assert_allclose(done.truth, done.estimate, atol=4e-6)


@given(shift=SHIFTS, ramp=RAMPS, tilt=RAMPS)
def test_what_was_removed_makes_the_aligned_estimate(shift, ramp, tilt):
    """MET-3 and MET-5: the reported factors, applied by hand, give the returned images, for a tilted truth too."""
    estimate = estimate_array(shift=shift, ramp=ramp, scale=1.3, phase=0.4)
    y, x = np.indices((HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)).astype(float)
    done = align(estimate, truth_array() * np.exp(1j * (tilt[0] * y + tilt[1] * x)), **OFFSET)
    y, x = np.indices((HEIGHT, WIDTH)).astype(float)
    turn = done.ramp_yx_rad_per_px[0] * (y - (HEIGHT - 1) / 2) + done.ramp_yx_rad_per_px[1] * (x - (WIDTH - 1) / 2)
    by_hand = estimate * done.scale * np.exp(-1j * (done.phase_rad + turn))
    np.testing.assert_allclose(done.estimate, by_hand, atol=1e-9)
    y, x = y + MARGIN - done.shift_yx_px[0], x + MARGIN - done.shift_yx_px[1]
    np.testing.assert_allclose(done.truth, analytic(y, x) * np.exp(1j * (tilt[0] * y + tilt[1] * x)), atol=4e-6)


@pytest.mark.parametrize("kind", sorted(OBJECTS))
@pytest.mark.parametrize("phase", [0.5, 2.8])
def test_rough_noisy_objects_with_strong_phases_are_aligned(kind, phase):
    rng = np.random.default_rng(1)
    truth = OBJECTS[kind]((140, 150), seed=3, phase_range_rad=(-phase, phase)).astype(np.complex128)
    y, x = np.indices(truth.shape)
    noise = 0.05 * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    estimate = np.roll(truth + noise, (5, -7), axis=(0, 1)) * np.exp(1j * (0.23 * y - 0.41 * x))
    mask = np.zeros(truth.shape, bool)
    mask[20:-20, 15:-25] = True
    done = align(estimate, truth, weight=mask)
    np.testing.assert_allclose(done.shift_yx_px, (5, -7), atol=0.05)
    np.testing.assert_allclose(done.ramp_yx_rad_per_px, (0.23, -0.41), atol=2e-4)


@given(values=st.sampled_from([np.nan, 0, 1e30]), seed=st.integers(0, 9))
def test_pixels_that_were_not_scanned_do_not_count(values, seed):
    """Invariant 17: values at pixels that were not illuminated change nothing."""
    weight = np.zeros((HEIGHT, WIDTH))
    weight[10:-10, 12:-8] = 1 + np.random.default_rng(seed).uniform(size=weight[10:-10, 12:-8].shape)
    clean = estimate_array(shift=(1.5, -0.5), ramp=(0.1, 0))
    dirty = np.where(weight > 0, clean, values)
    figures = [compare(e, truth_array(), weight=weight, estimate_origin_yx_px=(MARGIN, MARGIN)) for e in (clean, dirty)]
    assert figures[0].to_dict() == figures[1].to_dict()
    assert figures[0].n_pixels == np.count_nonzero(weight)


def test_ramp_and_shift_can_be_kept():
    estimate = estimate_array(shift=(2.0, 1.0), ramp=(0.03, 0.02))
    kept = align(estimate, truth_array(), remove_ramp=False, remove_shift=False, **OFFSET)
    assert kept.ramp_yx_rad_per_px.tolist() == [0, 0]
    assert kept.shift_yx_px.tolist() == [0, 0]
    only_shift = align(estimate_array(shift=(2.0, 1.0)), truth_array(), remove_ramp=False, **OFFSET)
    np.testing.assert_allclose(only_shift.shift_yx_px, (2, 1), atol=1e-6)
    only_ramp = align(estimate_array(ramp=(0.03, 0.02)), truth_array(), remove_shift=False, **OFFSET)
    np.testing.assert_allclose(only_ramp.ramp_yx_rad_per_px, (0.03, 0.02), atol=1e-9)


def test_no_larger_shift_is_removed_than_allowed():
    done = align(estimate_array(shift=(8.0, 0.0)), truth_array(), max_shift_px=3.0, **OFFSET)
    assert np.abs(done.shift_yx_px).max() <= 3.0


@given(y=st.floats(-1e5, 1e5), x=st.floats(-1e5, 1e5))
def test_origins_overlay_the_frames(y, x):
    """Invariant 15: one vector added to both origins changes no figure."""
    rng = np.random.default_rng(0)
    noise = 0.03 * (rng.standard_normal((HEIGHT, WIDTH)) + 1j * rng.standard_normal((HEIGHT, WIDTH)))
    estimate, truth = estimate_array() + noise, truth_array()
    vector = np.round(np.array([y, x]))
    here = compare(estimate, truth, estimate_origin_yx_px=(MARGIN, MARGIN))
    there = compare(estimate, truth, estimate_origin_yx_px=vector + MARGIN, truth_origin_yx_px=vector)
    assert here.to_dict() == there.to_dict()
    assert here.amplitude_rmse < 0.04


def test_fractional_origins_are_honoured():
    """Frames half a pixel apart are laid over each other without any search."""
    y, x = np.indices((HEIGHT, WIDTH)).astype(float) + MARGIN
    done = align(
        analytic(y + 0.5, x - 0.25),
        truth_array(),
        offset_yx_px=(MARGIN + 0.5, MARGIN - 0.25),
        remove_shift=False,
        remove_ramp=False,
    )
    np.testing.assert_allclose(done.estimate, done.truth, atol=2e-6)


def test_a_truth_smaller_than_the_estimate_limits_the_area():
    whole, part = truth_array(), truth_array()[30:80, 20:90]
    done = align(whole, part, offset_yx_px=(-30, -20))
    assert done.mask.sum() == part.size
    np.testing.assert_allclose(done.estimate[done.mask], part.ravel(), atol=1e-6)


def test_both_weights_limit_the_area_of_two_reconstructions():
    first, second = np.zeros((40, 40)), np.zeros((40, 40))
    first[5:30, 5:30], second[10:38, 10:38] = 1, 1
    y, x = np.indices((40, 40)).astype(float)
    done = align(analytic(y, x), analytic(y, x), weight=first, truth_weight=second)
    assert np.array_equal(done.mask, (first > 0) & (second > 0))


@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_scanned_area_is_a_tenth_of_the_median(factor, seed):
    weight = np.random.default_rng(seed).uniform(0, 1, (30, 30))
    weight[:5] = 0
    area = scanned_area(weight * factor)
    middle = np.sort(weight[5:].ravel())[25 * 30 // 2 - 1 : 25 * 30 // 2 + 1].mean()
    clear = np.abs(weight - 0.1 * middle) > 1e-9
    assert np.array_equal(area[clear], (weight > 0.1 * middle)[clear])


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.floats(0.3, 1.0))
def test_largest_rectangle_against_brute_force(seed, height, width, fraction):
    mask = np.random.default_rng(seed).uniform(size=(height, width)) < fraction
    rows, columns = largest_rectangle(mask)
    assert mask[rows, columns].all()
    sizes = [
        (b - t) * (r - c)
        for t in range(height)
        for b in range(t + 1, height + 1)
        for c in range(width)
        for r in range(c + 1, width + 1)
        if mask[t:b, c:r].all()
    ]
    assert mask[rows, columns].size == max(sizes, default=0)


def test_bad_input_is_refused_with_all_problems():
    good = truth_array()
    with pytest.raises(ContractError) as caught:
        align(good.real, good, truth_weight=np.ones((2, 2)))
    assert caught.value.codes == ("array.shape", "array.shape")
    with pytest.raises(ContractError, match="finite values in the scanned area"):
        align(np.where(good.real > 0.8, np.nan, good), good)
    with pytest.raises(ContractError, match=r"metrics\.area"):
        align(good, good, offset_yx_px=(1000, 0))
    with pytest.raises(ContractError, match=r"metrics\.area"):
        align(good, good, weight=np.zeros(good.shape))
