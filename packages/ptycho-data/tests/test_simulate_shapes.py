"""Objects, probes and positions of the simulator (specs/simulation.md, SIM-1 to SIM-9)."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_data import simulate as sim

ROUNDING = 1e-6


@pytest.mark.parametrize("kind", sorted(sim.OBJECTS))
class TestObjects:
    @given(
        height=st.integers(24, 90),
        width=st.integers(24, 90),
        seed=st.integers(0, 2**31),
        low=st.floats(0, 0.9),
        phase=st.floats(0.1, 3.0),
    )
    def test_amplitude_and_phase_fill_their_ranges(self, kind, height, width, seed, low, phase):
        obj = sim.OBJECTS[kind]((height, width), seed=seed, amplitude_range=(low, 1.0), phase_range_rad=(-phase, phase))
        assert obj.shape == (height, width)
        assert obj.dtype == np.complex64
        modulus = np.abs(obj)
        assert modulus.min() == pytest.approx(low, abs=ROUNDING)
        assert modulus.max() == pytest.approx(1.0, abs=ROUNDING)
        argument = np.angle(obj[modulus > 1e-3])
        assert np.abs(argument).max() <= phase + 1e-4

    def test_same_seed_same_bits_another_seed_another_object(self, kind):
        first, again, other = (sim.OBJECTS[kind]((60, 70), seed=seed) for seed in (5, 5, 6))
        assert first.tobytes() == again.tobytes()
        assert np.abs(first - other).max() > 0.1

    def test_amplitude_and_phase_are_no_function_of_each_other(self, kind):
        obj = sim.OBJECTS[kind]((200, 200), seed=2)
        assert abs(np.corrcoef(np.abs(obj).ravel(), np.angle(obj).ravel())[0, 1]) < 0.85

    def test_is_smooth_at_the_scale_of_a_pixel(self, kind):
        obj = sim.OBJECTS[kind]((128, 128), seed=3)
        spectrum = np.abs(np.fft.fft2(obj - obj.mean())) ** 2
        y, x = np.meshgrid(*2 * [np.abs(np.fft.fftfreq(128))], indexing="ij")
        assert spectrum[np.maximum(y, x) > 0.4].sum() < 0.02 * spectrum.sum()


def test_a_star_has_the_spokes_that_were_asked_for():
    obj = sim.siemens_star((256, 256), seed=0, spokes=24)
    angle = 2 * np.pi * np.arange(4096) / 4096
    radius = 0.35 * 256
    ring = np.angle(obj)[
        np.rint(127.5 + radius * np.sin(angle)).astype(int), np.rint(127.5 + radius * np.cos(angle)).astype(int)
    ]
    assert np.argmax(np.abs(np.fft.rfft(ring - ring.mean()))) == 24


def test_illegal_object_options_are_named_at_once():
    with pytest.raises(ContractError) as caught:
        sim.lines((2, 2), seed=0, amplitude_range=(0.5, 1.2), phase_range_rad=(-4, 4), blur_px=-1)
    assert caught.value.codes == ("simulate.shape", "simulate.range", "simulate.range", "simulate.range")


@pytest.mark.parametrize("kind", sorted(sim.PROBES))
class TestProbes:
    @given(N=st.integers(48, 129), modes=st.integers(1, 8), decay=st.floats(0.02, 1.0))
    def test_has_unit_energy_and_orthogonal_modes_of_the_stated_power(self, kind, N, modes, decay):
        probe = sim.PROBES[kind](N, modes=modes, mode_decay=decay)
        assert probe.shape == (modes, N, N)
        assert probe.dtype == np.complex64
        flattened = probe.reshape(modes, -1).astype(np.complex128)
        gram = flattened @ flattened.conj().T
        powers = decay ** np.arange(modes)
        np.testing.assert_allclose(np.diag(gram).real, powers / powers.sum(), rtol=1e-5)
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5

    @given(N=st.integers(48, 129))
    def test_fits_its_array(self, kind, N):
        power = np.abs(sim.PROBES[kind](N)[0].astype(np.complex128)) ** 2
        border = N // 16
        assert 1 - power[border:-border, border:-border].sum() < 1e-3
        y, x = np.indices(power.shape)
        assert (y * power).sum() - N // 2 == pytest.approx(0, abs=0.05)
        assert (x * power).sum() - N // 2 == pytest.approx(0, abs=0.05)

    def test_defocus_spreads_the_beam_and_leaves_the_aperture(self, kind):
        focused, wide = (sim.PROBES[kind](64, radius_px=radius)[0] for radius in (0.0, 14.0))
        y, x = np.indices((64, 64)) - 32
        size = [np.sqrt(np.sum((y**2 + x**2) * np.abs(p) ** 2)) for p in (focused, wide)]
        assert size[1] > 2 * size[0]
        assert size[1] < 14
        apertures = [np.abs(np.fft.fft2(p)) for p in (focused, wide)]
        np.testing.assert_allclose(*apertures, atol=1e-5)

    def test_a_defocused_beam_diverges(self, kind):
        """SIM-5: behind its focus, so that the phase grows with the distance from the middle.

        Oracle: the ray at distance r has the slope of its frequency, d(phase)/dr = 2 pi aperture r / radius.
        """
        N, radius, aperture = 64, 14.0, 0.2
        beam = sim.PROBES[kind](N, radius_px=radius, aperture=aperture)[0]
        for line in (beam[N // 2, N // 2 :], beam[N // 2 :, N // 2]):
            r = np.arange(8, 12)
            slope = np.angle(line[r + 1] * line[r - 1].conj()) / 2
            np.testing.assert_allclose(slope, 2 * np.pi * aperture * r / radius, rtol=0.2)

    def test_options_that_do_not_fit_are_named_at_once(self, kind):
        with pytest.raises(ContractError) as caught:
            sim.PROBES[kind](64, aperture=0.6, radius_px=50, modes=9, mode_decay=0)
        assert caught.value.codes == ("simulate.probe",) * 4


def test_a_zone_plate_has_a_stop_and_a_disc_has_none():
    disc, plate = (np.abs(np.fft.fft2(probe(64)[0]))[0, 0] for probe in (sim.defocused_disc, sim.zone_plate))
    assert plate < 1e-3 * disc
    with pytest.raises(ContractError, match="central_stop"):
        sim.zone_plate(64, central_stop=1.0)


class TestMeasuredProbes:
    @given(power=st.floats(1e-20, 1e20), modes=st.integers(1, 3))
    def test_keeps_its_shape_and_gets_unit_energy(self, power, modes):
        rng = np.random.default_rng(0)
        given_probe = (rng.standard_normal((modes, 8, 8)) + 1j * rng.standard_normal((modes, 8, 8))) * power
        probe = sim.from_array(given_probe)
        np.testing.assert_allclose(probe, given_probe / np.linalg.norm(given_probe), rtol=1e-5)

    @pytest.mark.parametrize(
        ("probe", "codes"),
        [
            (np.ones((8, 8)), ("array.dtype",)),
            (np.ones((4, 8)), ("array.dtype", "array.shape")),
            (np.ones((8, 8, 8, 8), complex), ("array.shape",)),
            (np.full((8, 8), np.nan + 0j), ("array.not_finite",)),
            (np.zeros((8, 8), complex), ("simulate.probe",)),
        ],
    )
    def test_what_is_no_probe_is_refused(self, probe, codes):
        with pytest.raises(ContractError) as caught:
            sim.from_array(probe)
        assert caught.value.codes == codes

    def test_files_that_hold_none_are_refused(self, tmp_path: Path):
        with pytest.raises(MissingFileError, match=r"none\.npz"):
            sim.measured(tmp_path / "none.npz")
        (tmp_path / "text.npz").write_text("no archive")
        with pytest.raises(ContractError, match=r"text\.npz"):
            sim.measured(tmp_path / "text.npz")
        np.savez(tmp_path / "other.npz", probe=np.ones((8, 8), complex))
        with pytest.raises(ContractError, match="did you mean 'probe'"):
            sim.measured(tmp_path / "other.npz", key="probes")
        np.savez(tmp_path / "object.npz", probeGuess=np.array([print], dtype=object))
        with pytest.raises(ContractError, match=r"object\.npz"):
            sim.measured(tmp_path / "object.npz")

    @pytest.mark.shared_data
    def test_a_real_probe(self, shared_data: Path):
        probe = sim.measured(shared_data / "run1084_probe_object_positions.npz")
        assert probe.shape == (1, 64, 64)
        assert np.sum(np.abs(probe) ** 2) == pytest.approx(1, rel=1e-5)


class TestScans:
    @given(n=st.integers(1, 300), step=st.floats(0.1, 50))
    def test_a_raster_is_a_grid(self, n, step):
        positions = sim.raster(n, step_px=step)
        assert positions.shape == (n, 2)
        columns = int(np.ceil(np.sqrt(n)))
        np.testing.assert_allclose(positions[:, 1] * columns / step + positions[:, 0] / step, np.arange(n), atol=1e-9)

    @given(n=st.integers(2, 300), seed=st.integers(0, 2**31), jitter=st.floats(0, 1))
    def test_jitter_stays_within_its_bound(self, n, seed, jitter):
        shift = sim.jittered(n, step_px=4.0, seed=seed, jitter=jitter) - sim.raster(n, step_px=4.0)
        assert np.ptp(shift, axis=0).max() <= 2 * 4.0 * jitter + 1e-9
        assert jitter < 0.01 or np.ptp(shift) > 0

    def test_a_spiral_has_one_position_for_each_square_step(self):
        positions = sim.spiral(2000, step_px=3.0)
        centred = positions - positions.mean(axis=0)
        inside = np.hypot(*centred.T) < 40
        assert inside.sum() == pytest.approx(np.pi * 40**2 / 9, rel=0.02)
        gaps = np.sort(np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1)), axis=1)[:, 1]
        assert gaps.min() > 0.8 * 3.0

    @given(
        n=st.integers(1, 100), N=st.integers(2, 33), margin=st.integers(0, 9), kind=st.sampled_from(sorted(sim.SCANS))
    )
    def test_placed_patches_keep_the_margin(self, n, N, margin, kind):
        seed = {"seed": 1} if kind == "jittered" else {}
        positions, (height, width) = sim.place(sim.SCANS[kind](n, step_px=2.7, **seed), N, margin_px=margin)
        first = positions - N // 2
        last = np.ceil(positions) - N // 2 + N - 1
        assert first.min() == pytest.approx(margin, abs=1e-9)
        assert (last <= np.array([width, height]) - 1 - margin).all()
        assert (last.max(axis=0) >= np.array([width, height]) - 2 - margin).all()

    @pytest.mark.parametrize("kind", sorted(sim.SCANS))
    def test_impossible_requests_are_named_at_once(self, kind):
        seed = {"seed": 1} if kind == "jittered" else {}
        with pytest.raises(ContractError) as caught:
            sim.SCANS[kind](0, step_px=-1.0, **seed)
        assert caught.value.codes == ("simulate.scan", "simulate.scan")


def test_the_global_random_state_is_untouched():
    """Invariant 42: the caller's generators are neither read nor moved."""
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    before = np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    first = sim.simulate(n_patterns=9, N=16, seed=3)
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before  # noqa: NPY002
    np.random.seed(8)  # noqa: NPY002
    assert sim.simulate(n_patterns=9, N=16, seed=3).measurements.tobytes() == first.measurements.tobytes()
