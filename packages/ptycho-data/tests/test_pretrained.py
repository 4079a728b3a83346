"""The weights that are shipped, what they were trained on, and how a prior acts (specs/prior.md)."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.physics import PRIOR_WIDTHS
from ptycho_contracts.problems import ContractError
from ptycho_data.fitting import Prior
from ptycho_data.pretrained import PRIOR_FILE, prior_provenance, prior_weights, write_prior
from ptycho_data.simulate.canvases import draw_batch, draw_noise, draw_truth


def test_the_file_is_small_and_says_how_it_was_made():
    """PRI-4."""
    assert PRIOR_FILE.stat().st_size <= 2 * 2**20
    made = prior_provenance()
    assert {"settings", "versions", "final_loss"} <= made.keys()
    assert 0 < made["final_loss"] < 1
    weights = prior_weights()
    assert all(value.dtype == np.float32 for value in weights.values())
    assert weights["first.weight"].shape == (PRIOR_WIDTHS[0], 12, 3, 3)


@pytest.mark.parametrize("harm", ["cut", "altered", "other", "missing"])
def test_a_broken_file_is_refused(tmp_path, harm):
    """PRI-4."""
    path = tmp_path / "prior.safetensors"
    if harm == "other":
        path.write_bytes(b"no tensors")
    elif harm != "missing":
        shutil.copyfile(PRIOR_FILE, path)
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content if harm == "altered" else content[:-100])
    with pytest.raises(ContractError, match=r"prior\.broken"):
        prior_weights(path)


def test_written_and_read_again(tmp_path):
    """PRI-4."""
    weights = {"first.weight": np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)}
    write_prior(tmp_path / "p.safetensors", weights, {"settings": {"seed": 3}})
    np.testing.assert_array_equal(prior_weights(tmp_path / "p.safetensors")["first.weight"], weights["first.weight"])
    assert prior_provenance(tmp_path / "p.safetensors") == {"settings": {"seed": 3}}


@given(st.integers(0, 2**32 - 1))
def test_truths_are_finite_and_of_unit_amplitude(seed):
    """PRI-5."""
    truth = draw_truth((32, 40), np.random.default_rng(seed))
    assert truth.shape == (32, 40)
    assert truth.dtype == np.complex64
    assert np.square(np.abs(truth)).mean() == pytest.approx(1, rel=1e-4)
    assert truth.tobytes() == draw_truth((32, 40), np.random.default_rng(seed)).tobytes()


def test_the_noise_is_as_large_as_the_level_says():
    """PRI-6: over many canvases the squared noise is that of the level, which varies over some of them."""
    rng = np.random.default_rng(0)
    truths = np.stack([draw_truth((48, 48), rng) for _ in range(4)])
    batch = draw_batch(truths, rng, count=200, side=32)
    ratio = np.square(np.abs(batch.noisy - batch.truth)).mean((1, 2)) / np.square(batch.sigma).mean((1, 2))
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    levels = np.sqrt(np.square(batch.sigma).mean((1, 2)))
    assert 0.01 <= levels.min() < 0.02
    assert 0.4 < levels.max() <= 0.71
    assert 0.3 < (np.ptp(batch.sigma, axis=(1, 2)) == 0).mean() < 0.7


def test_noise_of_several_colours():
    """PRI-6: white, or with more or with less of it at low frequencies."""
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(60):
        power = np.square(np.abs(np.fft.fft2(draw_noise((64, 64), rng))))
        shares.append(power[:4, :4].mean() / power[28:36, 28:36].mean())
    assert np.percentile(shares, 15) < 1.3
    assert np.percentile(shares, 90) > 3


@given(n=st.floats(0.1, 1e7), first=st.floats(0.01, 1), t=st.floats(0, 1))
def test_the_noise_level_falls_to_what_the_light_leaves(n, first, t):
    """PRI-9, PRI-11."""
    prior = Prior("network", photons=1e6, photons_per_px=n, first_sigma=first)
    last = min(max(0.75 / np.sqrt(2 * n), 0.02), 0.2)
    assert prior.sigma(1.0) == pytest.approx(last)
    assert prior.sigma(0.0) == pytest.approx(max(first, last))
    assert last * 0.999 <= prior.sigma(t) <= prior.sigma(0.0) * 1.001


@given(n=st.floats(100, 1e7))
def test_with_many_photons_the_data_outweigh_it(n):
    """PRI-12: beside the curvature 4 n of the likelihood of a pixel with n photons."""
    prior = Prior("network", photons=1e6, photons_per_px=n)
    assert prior.strength(1.0, "poisson") * prior.photons <= 4 * n
    if n > 1e5:
        assert prior.strength(1.0, "poisson") * prior.photons < 0.01 * 4 * n


def test_strength():
    """PRI-8, PRI-12: by hand."""
    prior = Prior("network", photons=1e6, photons_per_px=28.125, weight=2.0, judged=True)
    assert prior.strength(0.75, "poisson") == pytest.approx(2 / 0.1**2 / 1e6)
    assert prior.strength(0.75, "amplitude") == pytest.approx(1 / 0.1**2 / 1e6)
    assert prior.strength(0.8, "poisson") == 0
    assert Prior("tv", photons=1e6, photons_per_px=50.0).strength(0.9, "poisson") == pytest.approx(2.5e-6)
