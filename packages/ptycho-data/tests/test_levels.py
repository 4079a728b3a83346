"""Coarse levels of a scan (specs/physics.md, PHY-34 and PHY-35); the oracles are sums of exponentials in complex128."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import reference
from ptycho_data.batches.moduli import ModuliStream
from ptycho_data.canvas import (
    CanvasGeometry,
    canvas_geometry,
    central_part,
    coarse_sides,
    level_probe,
    on_level,
    photons_per_pixel,
)
from ptycho_data.simulate import PROBES, simulate


def fourier_matrix(side):
    """(side, side) unitary: frequency k - side // 2 of pixel x - side // 2."""
    centred = np.arange(side) - side // 2
    return np.exp(-2j * np.pi * np.outer(centred, centred) / side) / np.sqrt(side)


@given(N=st.integers(4, 20), data=st.data(), seed=st.integers(0, 99))
def test_far_field_of_the_level_is_the_central_part(N, data, seed):
    """PHY-34, for even and odd sides: from the definition of the transform."""
    side = data.draw(st.integers(2, N))
    rng = np.random.default_rng(seed)
    probe = (rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))).astype(np.complex64)
    full = np.stack([fourier_matrix(N) @ mode @ fourier_matrix(N) for mode in probe.astype(np.complex128)])
    first = N // 2 - side // 2
    expected = full[:, first : first + side, first : first + side]
    near = level_probe(probe, side).astype(np.complex128)
    coarse = np.stack([fourier_matrix(side) @ mode @ fourier_matrix(side) for mode in near])
    np.testing.assert_allclose(coarse, expected, atol=1e-5 * N)


@pytest.mark.parametrize(("N", "side"), [(32, 16), (40, 20), (36, 18)])
def test_a_level_is_a_scan_of_the_same_object(N, side):
    """PHY-34: counts of a smooth object under a probe of small aperture, cut to the level, are those that the level's
    probe, positions and object give: the object read at N / n times the pixel."""
    probe = PROBES["defocused_disc"](N, aperture=0.12).astype(np.complex128)
    positions = np.array([[60.3, 55.9], [51.25, 64.5]])
    wave = np.array([0.02, -0.013])  # cycles per object pixel, [x, y]

    def transmission(x, y):
        return 1 + 0.3 * np.exp(2j * np.pi * (wave[0] * x + wave[1] * y))

    def counts(modes, where, size, ratio):
        offsets = (np.arange(size) - size // 2) / ratio
        patterns = []
        for x, y in where:
            patch = transmission(x + offsets[None, :], y + offsets[:, None])
            far = [fourier_matrix(size) @ (mode * patch) @ fourier_matrix(size) for mode in modes]
            patterns.append(np.sum(np.abs(far) ** 2, axis=0))
        return np.array(patterns)

    full = central_part(counts(probe, positions, N, 1.0), side)
    coarse = counts(level_probe(probe.astype(np.complex64), side), positions, side, side / N)
    assert np.abs(coarse - full).sum() <= 0.01 * full.sum()


@given(
    ratio=st.sampled_from([0.5, 0.25]),
    origin=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    wave=st.tuples(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03)),
)
def test_the_object_keeps_its_place(ratio, origin, wave):
    """PHY-34: a plane wave of low frequency, sampled on a coarse canvas, is the same wave on the finer one."""
    fine = CanvasGeometry(np.array(origin), (90, 70))
    coarse = CanvasGeometry(np.floor(fine.origin_yx_px * ratio) - 8, (int(90 * ratio) + 20, int(70 * ratio) + 20))

    def sampled(frame, scale):
        y = (np.arange(frame.shape[0]) + frame.origin_yx_px[0])[:, None] / scale
        x = (np.arange(frame.shape[1]) + frame.origin_yx_px[1])[None, :] / scale
        return np.exp(2j * np.pi * (wave[0] * y + wave[1] * x))

    lifted = on_level(sampled(coarse, ratio).astype(np.complex64), coarse, fine, ratio=ratio)
    assert lifted.dtype == np.complex64
    np.testing.assert_allclose(lifted, sampled(fine, 1.0), atol=0.03)


def test_beyond_the_coarse_canvas_is_empty_space():
    coarse = CanvasGeometry(np.zeros(2), (8, 8))
    lifted = on_level(
        np.full((8, 8), 0.5j, np.complex64), coarse, CanvasGeometry(np.full(2, -40.0), (16, 16)), ratio=0.5
    )
    np.testing.assert_array_equal(lifted[:16, :16], 1)


class TestSides:
    """PHY-35."""

    @pytest.mark.parametrize(("aperture", "expected"), [(0.05, [16, 32, 64]), (0.1, [32, 64]), (0.2, [64]), (0.3, [])])
    def test_hold_the_aperture(self, aperture, expected):
        """A level of side n holds an aperture of up to n / (2 N) cycles per pixel."""
        probe = PROBES["defocused_disc"](128, aperture=aperture, radius_px=20.0)
        assert coarse_sides(probe, levels=None, photons_per_px=1e4) == expected

    def test_need_light(self):
        probe = PROBES["defocused_disc"](128, aperture=0.1)
        assert coarse_sides(probe, levels=None, photons_per_px=99.0) == []
        assert coarse_sides(probe, levels=None, photons_per_px=101.0) == [32, 64]

    @pytest.mark.parametrize(
        ("levels", "expected"), [(1, []), (2, [64]), (3, [32, 64]), (4, [16, 32, 64]), (8, [16, 32, 64])]
    )
    def test_a_given_number_decides(self, levels, expected):
        probe = PROBES["defocused_disc"](128, aperture=0.3)
        assert coarse_sides(probe, levels=levels, photons_per_px=1.0) == expected

    @given(N=st.integers(4, 200))
    def test_are_halves(self, N):
        sides = [*coarse_sides(np.ones((1, N, N), np.complex64), levels=8, photons_per_px=1e9), N]
        assert all(side == above // 2 and side >= 16 for side, above in pairwise(sides))


def test_photons_per_pixel():
    """An even illumination of n pixels has photons / n; a dark border changes nothing."""
    even = np.zeros((20, 30), np.float32)
    even[5:15, 10:20] = 7.0
    assert photons_per_pixel(even, 4000.0) == pytest.approx(40.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_of_a_level(workers, monkeypatch):
    """PHY-34: central parts, with the mean counts of the full patterns; kept, so that each is read once."""
    scan = simulate(N=16, n_patterns=9, step_px=2.0, photons_per_pattern=500, seed=3)
    subsets, read = [np.array([4, 1]), np.array([0, 2, 3])], []
    monkeypatch.setattr(type(scan), "counts", _noting(type(scan).counts, read))
    with ModuliStream(scan, subsets, passes=3, mean_counts=480.0, side=6, workers=workers) as stream:
        for _ in range(3):
            for number, subset in enumerate(subsets):
                part = scan.measurements[subset][:, 5:11, 5:11].astype(np.float64)
                expected = np.sqrt(np.fft.ifftshift(part, axes=(1, 2)) / 480.0)
                np.testing.assert_allclose(stream.read(number), expected, rtol=1e-6)
    assert len(read) == 2


def _noting(original, read):
    def counts(self, *arguments):
        read.append(arguments)
        return original(self, *arguments)

    return counts


def test_canvas_of_a_level_holds_its_patches():
    """The reference reads every patch of a level inside its canvas."""
    scan = simulate(N=32, n_patterns=20, step_px=3.0, seed=1)
    positions = scan.positions_px * 0.5
    frame = canvas_geometry(positions, 16)
    patches = reference.extract_patches(np.ones(frame.shape, np.complex128), positions, 16, tuple(frame.origin_yx_px))
    np.testing.assert_allclose(patches, 1)
