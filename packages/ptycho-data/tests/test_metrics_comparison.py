"""Figures of merit (specs/metrics.md, MET-8 to MET-16)."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_data.metrics import compare, frc
from ptycho_data.simulate import OBJECTS
from scipy.ndimage import gaussian_filter

HIGHER = (
    "complex_correlation",
    "amplitude_ssim",
    "amplitude_psnr_db",
    "phase_ssim",
    "phase_psnr_db",
    "frc_half",
    "frc_half_bit",
)
LOWER = ("amplitude_mae", "amplitude_rmse", "phase_mae_rad", "phase_rmse_rad")


def noise(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("kind", sorted(OBJECTS))
@pytest.mark.parametrize(("tilt", "level"), [((0.0, 0.0), 1.0), ((0.07, -0.11), 20.0)])
def test_every_figure_ranks_truth_then_blurred_then_uniform(kind, tilt, level):
    """Invariant 49: a blank image, tilted or scaled or not, passes nowhere; undefined figures are None."""
    truth = OBJECTS[kind]((110, 120), seed=8).astype(np.complex128)
    blurred = gaussian_filter(np.abs(truth), 2) * np.exp(1j * gaussian_filter(np.angle(truth), 2))
    y, x = np.indices(truth.shape)
    change = level * np.exp(1j * (tilt[0] * y + tilt[1] * x))
    mask = np.zeros(truth.shape, bool)
    mask[8:-8, 8:-8] = True
    best, middle, worst = (
        compare(image * change, truth, weight=mask)
        for image in (truth + 1e-4 * noise(truth.shape, 0), blurred, truth * 0 + 1)
    )
    for name in HIGHER:
        values = [getattr(row, name) for row in (best, middle, worst)]
        assert values[0] is not None
        assert values[1] is not None
        assert values[0] > values[1] > (-np.inf if values[2] is None else values[2]), name
    for name in LOWER:
        values = [getattr(row, name) for row in (best, middle, worst)]
        assert values[0] < values[1] < values[2], name
    assert worst.complex_correlation is None
    assert worst.frc_half is None
    assert worst.frc_half_bit is None


def test_a_nearly_blank_image_gains_nothing_from_tilt_and_shift():
    """Invariant 49, if the estimate is uniform except for its noise and the truth is smooth."""
    truth = OBJECTS["random_field"]((110, 120), seed=2, exponent=4.0)
    for seed in range(3):
        figures = compare(1 + 1e-3 * noise(truth.shape, seed), truth)
        assert figures.complex_correlation < 0.15
        assert figures.frc_half < 0.1


def test_figures_follow_their_formulas():
    """MAE, RMSE, PSNR and correlation by hand, on a pair that alignment leaves alone."""
    rng = np.random.default_rng(5)
    truth = OBJECTS["dead_leaves"]((64, 70), seed=1).astype(np.complex128)
    estimate = truth * (1 + 0.02 * rng.standard_normal(truth.shape)) * np.exp(0.03j * rng.standard_normal(truth.shape))
    phase = np.angle(np.vdot(truth, estimate))
    scale = np.sum(np.abs(estimate) * np.abs(truth)) / np.sum(np.abs(estimate) ** 2)
    estimate = estimate * scale * np.exp(-1j * phase)
    figures = compare(estimate, truth, remove_ramp=False, remove_shift=False)
    amplitude, turn = np.abs(estimate) - np.abs(truth), np.angle(estimate / truth)
    assert figures.amplitude_mae == pytest.approx(np.mean(np.abs(amplitude)), rel=1e-9)
    assert figures.amplitude_rmse == pytest.approx(np.sqrt(np.mean(amplitude**2)), rel=1e-9)
    assert figures.phase_mae_rad == pytest.approx(np.mean(np.abs(turn)), rel=1e-9)
    assert figures.phase_rmse_rad == pytest.approx(np.sqrt(np.mean(turn**2)), rel=1e-9)
    peak = np.abs(truth).max() - np.abs(truth).min()
    assert figures.amplitude_psnr_db == pytest.approx(10 * np.log10(peak**2 / np.mean(amplitude**2)), rel=1e-9)
    relative = np.angle(truth / np.mean(truth))
    peak = relative.max() - relative.min()
    assert figures.phase_psnr_db == pytest.approx(10 * np.log10(peak**2 / np.mean(turn**2)), rel=1e-9)
    a, b = estimate.ravel(), truth.ravel()
    covariance = np.cov(np.stack([a, b]))
    expected = abs(covariance[0, 1]) / np.sqrt(covariance[0, 0].real * covariance[1, 1].real)
    assert figures.complex_correlation == pytest.approx(expected, rel=1e-9)
    assert figures.n_pixels == truth.size


def test_ssim_of_a_window_by_hand():
    """MET-12 on one 7 x 7 window: Wang et al. 2004, sample covariances, C1 = (.01 L)^2, C2 = (.03 L)^2."""
    rng = np.random.default_rng(0)
    truth = (0.5 + 0.5 * rng.uniform(size=(7, 7))).astype(np.complex128)
    estimate = truth + 0.05 * rng.standard_normal((7, 7))
    estimate *= np.sum(np.abs(estimate) * np.abs(truth)) / np.sum(np.abs(estimate) ** 2)
    figures = compare(estimate, truth, remove_ramp=False, remove_shift=False)
    x, y = estimate.real, truth.real
    c1, c2 = (0.01 * np.ptp(y)) ** 2, (0.03 * np.ptp(y)) ** 2
    covariance = np.cov(x.ravel(), y.ravel())
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    assert figures.amplitude_ssim == pytest.approx(expected, rel=1e-9)
    assert figures.phase_ssim is None
    assert figures.frc_half is None


@given(phase=st.floats(-3, 3), scale=st.floats(1e-3, 1e3), ramp=st.floats(-0.5, 0.5), seed=st.integers(0, 9))
def test_no_figure_depends_on_what_the_data_leave_open(phase, scale, ramp, seed):
    truth = OBJECTS["lines"]((60, 64), seed=seed).astype(np.complex128)
    estimate = truth + 0.05 * noise(truth.shape, seed)
    turn = np.exp(1j * (phase + ramp * np.arange(64)))
    plain = compare(estimate, truth)
    for figures in (compare(scale * estimate * turn, truth), compare(scale * estimate, truth * turn)):
        for name in (*HIGHER, *LOWER):
            assert getattr(figures, name) == pytest.approx(getattr(plain, name), rel=1e-4, abs=1e-6), name


def test_an_object_without_contrast_leaves_figures_undefined():
    """Invariant 49: no range, no PSNR and SSIM; a pure phase object has no amplitude range."""
    phase_only = np.exp(1j * np.angle(OBJECTS["lines"]((50, 50), seed=1).astype(np.complex128)))
    figures = compare(phase_only + 0.01 * noise((50, 50), 0), phase_only)
    assert figures.amplitude_psnr_db is None
    assert figures.amplitude_ssim is None
    assert figures.phase_psnr_db is not None
    uniform = np.full((50, 50), 2 + 1j)
    nothing = compare(uniform, uniform).to_dict()
    assert [nothing[name] for name in HIGHER] == [None] * len(HIGHER)
    zero = compare(uniform * 0, phase_only)
    assert zero.complex_correlation is None
    assert zero.frc_half is None
    exact = compare(phase_only, phase_only)
    assert exact.complex_correlation == pytest.approx(1, abs=1e-9)
    assert exact.frc_half == 1.0


def test_scikit_image_is_an_extra():
    """MET-12: importing the metrics imports no extra; without it the SSIM is None, and every other figure the same."""
    code = (
        "import json, sys, numpy as np, ptycho_data.metrics as m, ptycho_data.simulate as s\n"
        "assert 'skimage' not in sys.modules\n"
        "sys.modules['skimage.metrics'] = None; t = s.lines((30, 30), seed=0)\n"
        "print(json.dumps(m.compare(t * np.exp(0.3j * abs(t)), t).to_dict()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    truth = OBJECTS["lines"]((30, 30), seed=0)
    whole = compare(truth * np.exp(0.3j * abs(truth)), truth).to_dict()
    assert None not in whole.values()
    assert json.loads(done.stdout) == {**whole, "amplitude_ssim": None, "phase_ssim": None}


def test_figures_are_json():
    truth = OBJECTS["lines"]((50, 50), seed=1)
    for estimate in (truth, np.ones_like(truth)):
        text = json.dumps(compare(estimate, truth).to_dict(), allow_nan=False)
        assert json.loads(text)["n_pixels"] == 2500


class TestFrc:
    @given(height=st.integers(8, 50), width=st.integers(8, 50), seed=st.integers(0, 99))
    def test_of_identical_images_is_one(self, height, width, seed):
        image = noise((height, width), seed)
        curve = frc(image, image)
        np.testing.assert_allclose(curve.correlation, 1, atol=1e-12)
        assert (curve.resolution_half, curve.resolution_half_bit) == (1.0, 1.0)
        short = min(height, width)
        np.testing.assert_allclose(curve.frequency, 2 * np.arange(1, short // 2 + 1) / short)

    def test_in_json_has_a_resolution_only_where_it_crosses(self):
        """MET-14: null and a reason, and half a period where a pixel is known."""
        image = noise((40, 40), 0)
        same = frc(image, image).to_dict(pixel_size_m=1e-8)
        assert (same["half"], same["half_crossing"], same["half_period_m"]) == (None, "not crossed", None)
        assert (same["half_bit"], same["half_bit_crossing"]) == (None, "not crossed")
        nothing = frc(image, np.ones_like(image)).to_dict(pixel_size_m=1e-8)
        assert (nothing["half"], nothing["half_crossing"], nothing["half_period_m"]) == (None, "undefined", None)
        curve = frc(image, noise((40, 40), 1))
        none_at_all = replace(curve, resolution_half=0.0, resolution_half_bit=0.4).to_dict(pixel_size_m=1e-8)
        assert (none_at_all["half"], none_at_all["half_crossing"], none_at_all["half_period_m"]) == (
            0.0,
            "crossed",
            None,
        )
        assert none_at_all["half_bit_period_m"] == pytest.approx(2.5e-8)
        assert not [key for key in curve.to_dict() if key.endswith("_m")]

    def test_of_independent_noise_is_zero_within_its_scatter(self):
        curve = frc(noise((200, 180), 1), noise((200, 180), 2))
        assert np.abs(curve.correlation.mean()) < 0.02
        # A Hann window leaves about a quarter of the Fourier pixels independent.
        pixels = 2 * np.pi * np.arange(1, 91) * 200 / 180
        assert np.abs(curve.correlation * np.sqrt(0.264 * pixels))[5:].max() < 4.5
        assert curve.resolution_half < 0.1

    def test_falls_where_the_signal_ends(self):
        """A signal up to 0.4 of Nyquist in white noise: both halves agree up to there and not beyond."""
        y, x = np.meshgrid(np.fft.fftfreq(160), np.fft.fftfreq(160), indexing="ij")
        signal = np.fft.ifft2(np.fft.fft2(noise((160, 160), 0)) * (np.hypot(y, x) < 0.2))
        curve = frc(signal + 0.05 * noise((160, 160), 1), signal + 0.05 * noise((160, 160), 2))
        assert curve.resolution_half == pytest.approx(0.4, abs=0.03)
        assert curve.resolution_half_bit == pytest.approx(0.4, abs=0.03)

    def test_has_the_correlation_of_known_signal_to_noise(self):
        signal = noise((240, 240), 0)
        curve = frc(signal + noise((240, 240), 1), signal + noise((240, 240), 2))
        assert curve.correlation[10:].mean() == pytest.approx(0.5, abs=0.02)

    def test_half_a_bit_is_less_than_a_correlation_of_a_half(self):
        """Strong at low frequencies and at correlation 0.43 elsewhere: resolved by half a bit, not at 0.5."""
        y, x = np.meshgrid(np.fft.fftfreq(240), np.fft.fftfreq(240), indexing="ij")
        strength = 1 + 9 * (np.hypot(y, x) < 0.25)
        signal = np.fft.ifft2(np.fft.fft2(noise((240, 240), 0)) * strength)
        curve = frc(signal + 1.15 * noise((240, 240), 1), signal + 1.15 * noise((240, 240), 2))
        assert curve.correlation[65:].mean() == pytest.approx(1 / (1 + 1.15**2), abs=0.02)
        assert curve.resolution_half == pytest.approx(0.5, abs=0.04)
        assert curve.resolution_half_bit > 0.7

    def test_half_bit_threshold(self):
        """Van Heel and Schatz: 0.2071 at many pixels over 1.2071, and (0.2071 + 1.9102) / (1.2071 + 0.9102) at one."""
        curve = frc(noise((16, 16), 0), noise((16, 16), 1))
        y, x = np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16), indexing="ij")
        n = np.count_nonzero(np.rint(np.hypot(y, x) * 16) == 1)
        assert n == 8
        assert curve.half_bit[0] == pytest.approx((0.2071 + 1.9102 / 8**0.5) / (1.2071 + 0.9102 / 8**0.5))
        assert (curve.half_bit > 0.2071 / 1.2071).all()
        assert curve.half_bit[-1] < curve.half_bit[0]

    def test_uses_the_mask(self):
        image = noise((60, 70), 0)
        mask = np.zeros(image.shape, bool)
        mask[10:50, 5:60] = True
        spoiled = np.where(mask, image, noise(image.shape, 1))
        np.testing.assert_allclose(frc(image, spoiled, mask=mask).correlation, 1)
        assert frc(image, spoiled).correlation.max() < 0.999

    @pytest.mark.parametrize(
        "uniform", [np.zeros((32, 32)), np.full((32, 32), 3 - 1j), np.ones((32, 32), np.float32) / 3]
    )
    def test_of_a_uniform_image_is_undefined(self, uniform):
        """Invariant 49: degenerate input gives no number."""
        for pair in ((uniform, noise((32, 32), 0)), (noise((32, 32), 0), uniform), (uniform, uniform)):
            curve = frc(*pair)
            assert np.isnan(curve.correlation).all()
            assert curve.resolution_half is None
            assert curve.resolution_half_bit is None

    def test_of_too_few_pixels_is_undefined(self):
        curve = frc(noise((7, 40), 0), noise((7, 40), 0))
        assert curve.resolution_half is None
        assert curve.correlation.size == 0
        nowhere = frc(noise((20, 20), 0), noise((20, 20), 0), mask=np.zeros((20, 20), bool))
        assert nowhere.resolution_half is None

    def test_refuses_images_of_different_shapes(self):
        with pytest.raises(ContractError, match="align the images first"):
            frc(np.ones((8, 8)), np.ones((8, 9)))
