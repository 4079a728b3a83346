"""Losses against the NumPy reference (specs/physics.md PHY-16 to PHY-20)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.testing import reference, strategies
from ptycho_torch.losses import LOSSES

REFERENCE = {"amplitude": reference.amplitude_loss, "poisson": reference.poisson_loss}
both = pytest.mark.parametrize("name", sorted(LOSSES))


def test_every_loss_has_a_reference():
    """The schema's losses are the NumPy reference's."""
    assert LOSSES.keys() == REFERENCE.keys()


@both
@given(N=strategies.sizes, rng=strategies.generators, dose=st.sampled_from([1e-3, 1.0, 1e4]), masked=st.booleans())
def test_values(name, N, rng, dose, masked):
    """Any dose, with zeros, with and without bad pixels."""
    measured = rng.poisson(dose, (2, N, N)).astype(np.float64)
    measured[0, 0, 0] = 1
    simulated = rng.exponential(dose, (2, N, N)) * (rng.random((2, N, N)) > 0.2)
    good = rng.random((N, N)) > 0.3 if masked else None
    if good is not None:
        good[0, 0] = True
    mask = None if good is None else torch.from_numpy(good).double()
    result = LOSSES[name](torch.from_numpy(simulated), torch.from_numpy(measured), mask=mask)
    assert float(result) == pytest.approx(REFERENCE[name](simulated, measured, EPS_COUNTS, good), rel=1e-9, abs=1e-12)


@both
def test_smoothing_scales_with_the_unit(name):
    """Intensities in units of the mean counts with eps in that unit give the loss in counts, pattern by pattern."""
    rng = np.random.default_rng(0)
    measured, simulated = rng.poisson(0.5, (2, 3, 6, 6)).astype(float)
    scale = torch.tensor([100.0, 3.0, 0.1], dtype=torch.float64)[:, None, None]
    parts = [LOSSES[name](torch.from_numpy(simulated[[i]]), torch.from_numpy(measured[[i]])) for i in range(3)]
    scaled = [
        LOSSES[name](
            torch.from_numpy(simulated[[i]]) / scale[i],
            torch.from_numpy(measured[[i]]) / scale[i],
            eps=EPS_COUNTS / scale[[i]],
        )
        for i in range(3)
    ]
    torch.testing.assert_close(torch.stack(scaled), torch.stack(parts))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_with_finite_gradients_at_zero(name, dtype):
    """Invariant 53: I = 0, n = 0, both, and no photon at all."""
    simulated = torch.tensor([[[0.0, 0.0], [2.0, 5.0]]], dtype=dtype, requires_grad=True)
    for measured in ([[[0.0, 3.0], [0.0, 5.0]]], [[[0.0, 0.0], [0.0, 0.0]]]):
        simulated.grad = None
        value = LOSSES[name](simulated, torch.tensor(measured, dtype=dtype))
        value.backward()
        dark = not np.any(measured)
        assert not torch.isnan(value)
        assert not torch.isnan(simulated.grad).any()
        assert dark or torch.isfinite(simulated.grad).all()


@both
@pytest.mark.parametrize("dose", [1e3, 1e5, 1e7])
def test_darkness_where_there_is_light_in_single_precision(name, dose):
    """Invariant 53: I = 0 beside many photons is a large loss, exact to single precision, and never infinite."""
    measured = np.array([[[dose, 2.0], [0.0, 5.0]]])
    simulated = np.array([[[0.0, 2.0], [1.0, 5.0]]])
    leaf = torch.from_numpy(simulated).float().requires_grad_()
    value = LOSSES[name](leaf, torch.from_numpy(measured).float())
    value.backward()
    assert float(value.detach()) == pytest.approx(REFERENCE[name](simulated, measured), rel=1e-5)
    assert torch.isfinite(leaf.grad).all()


@both
def test_gradients(name):
    """Against finite differences, at zeros too."""
    rng = np.random.default_rng(1)
    measured = torch.from_numpy(rng.poisson(1.0, (2, 4, 4)).astype(float))
    # A step of gradcheck must stay small beside eps, so that I is not below it at its zeros.
    simulated = torch.from_numpy(rng.exponential(1.0, (2, 4, 4)) * (rng.random((2, 4, 4)) > 0.3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i: LOSSES[name](i, measured, eps=0.1), (simulated,))


@both
@given(rng=strategies.generators, scan=strategies.scans(min_count=2))
def test_the_truth_is_the_least(name, rng, scan):
    """Invariant 4: loss(truth) = 0 <= loss(perturbed), < loss(uniform), on noiseless patterns."""
    truth = scan.object_truth.astype(np.complex128)
    origin = scan.object_origin_yx_px

    def simulated(canvas):
        return reference.simulate_counts(
            reference.extract_patches(canvas, scan.positions_px, scan.N, origin), scan.probe
        )

    measured = torch.from_numpy(simulated(truth))
    loss = {
        kind: float(LOSSES[name](torch.from_numpy(simulated(canvas)), measured))
        for kind, canvas in {
            "truth": truth,
            "perturbed": truth * (1 + 0.05 * rng.normal(size=truth.shape)),
            "uniform": np.ones_like(truth),
        }.items()
    }
    assert loss["truth"] == pytest.approx(0, abs=1e-14)
    assert loss["truth"] < loss["perturbed"]
    assert loss["truth"] < loss["uniform"]


@both
def test_masked_pixels_count_for_nothing(name):
    """PHY-9: whatever the value there, in value and gradient."""
    rng = np.random.default_rng(2)
    measured = torch.from_numpy(rng.poisson(3.0, (2, 5, 5)).astype(float))
    simulated = torch.from_numpy(rng.exponential(3.0, (2, 5, 5)))
    mask = torch.ones(5, 5, dtype=torch.float64)
    mask[1, 2] = 0
    wild = measured.clone()
    wild[:, 1, 2] = 1e9
    leaf = simulated.clone().requires_grad_()
    value = LOSSES[name](leaf, wild, mask=mask)
    value.backward()
    assert float(value.detach()) == float(LOSSES[name](simulated, measured, mask=mask))
    assert torch.count_nonzero(leaf.grad[:, 1, 2]) == 0
