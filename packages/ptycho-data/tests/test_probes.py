"""Probe modes: adding, ordering, normalisation (specs/physics.md PHY-10, PHY-12)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import strategies
from ptycho_data.fitting.probes import mode_powers, normalised_probe, orthogonal_modes, overlap, with_modes
from ptycho_data.simulate import PROBES


def power(probe) -> np.ndarray:
    """Incoherent intensity."""
    return (np.abs(probe.astype(np.complex128)) ** 2).sum(0)


def gram(probe) -> np.ndarray:
    """Inner products of the modes."""
    flattened = probe.reshape(len(probe), -1).astype(np.complex128)
    return flattened.conj() @ flattened.T


@pytest.mark.parametrize("modes", range(1, 9))
@pytest.mark.parametrize("N", [16, 31])
def test_modes_are_added_weakly_and_orthogonal(modes, N):
    """The given mode stays as it is; each new one has a hundredth of its energy."""
    probe = PROBES["defocused_disc"](N)
    made = with_modes(probe, modes)
    assert made.shape == (modes, N, N)
    assert made.dtype == np.complex64
    np.testing.assert_allclose(made[0], probe[0], rtol=1e-6)
    products = np.abs(gram(made))
    np.testing.assert_allclose(np.diag(products)[1:], 0.01 * products[0, 0], rtol=1e-3)
    np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-5 * products[0, 0])


@given(data=st.data(), N=st.integers(8, 17), requested=st.integers(1, 3))
def test_the_strongest_modes_are_kept(data, N, requested):
    """Fewer modes than given: the strongest of the orthogonal ones."""
    probe = data.draw(strategies.probes(N, modes=3))
    kept = with_modes(probe, requested)
    np.testing.assert_allclose(kept, orthogonal_modes(probe)[:requested], rtol=1e-5)


@given(data=st.data(), N=st.integers(8, 17), modes=st.integers(1, 3))
def test_orthogonal_modes_are_the_same_light(data, N, modes):
    """PHY-12: unitary mixing changes neither the intensity on the object nor that on the detector."""
    probe = data.draw(strategies.probes(N, modes=modes)).astype(np.complex64)
    result = orthogonal_modes(probe)
    scale = power(probe).max()
    np.testing.assert_allclose(power(result), power(probe), rtol=1e-4, atol=1e-5 * scale)
    far, expected = (power(np.fft.fft2(wavefields, norm="ortho")) for wavefields in (result, probe))
    np.testing.assert_allclose(far, expected, rtol=1e-4, atol=1e-5 * expected.max())
    products = np.abs(gram(result))
    np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-4 * products.max())
    assert list(np.diag(products)) == sorted(np.diag(products), reverse=True)


def test_phases_stay_near_the_given_ones():
    """Orthogonal modes of different strength come back as they are, signs too."""
    probe = with_modes(PROBES["defocused_disc"](16) * np.complex64(1j), 3)
    probe *= np.array([1, 0.8, -0.5], np.complex64)[:, None, None]
    np.testing.assert_allclose(orthogonal_modes(probe), probe, atol=1e-5 * np.abs(probe).max())


@given(data=st.data(), counts=st.floats(1e-3, 1e9))
def test_normalisation(data, counts):
    """PHY-10."""
    probe = normalised_probe(data.draw(strategies.probes(9)), counts)
    assert probe.dtype == np.complex64
    assert power(probe).sum() == pytest.approx(counts, rel=1e-5)


def test_mode_powers():
    """Fractions of the energy."""
    probe = np.zeros((2, 4, 4), np.complex64)
    probe[0, 0, 0], probe[1, 1, 1] = 3, 1j
    assert mode_powers(probe) == pytest.approx([0.9, 0.1])


def test_overlap():
    """1 up to scale and phase, 0 for orthogonal probes; the strongest modes count."""
    probe = with_modes(PROBES["defocused_disc"](16), 2)
    assert overlap(probe, probe[::-1] * np.complex64(3j)) == pytest.approx(1, abs=1e-5)
    assert overlap(probe[:1], probe[1:]) == pytest.approx(0, abs=1e-5)
    assert overlap(probe[:1], probe[:1] + 10 * probe[1:]) == pytest.approx(np.sqrt(0.5), rel=1e-4)
