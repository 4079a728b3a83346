"""PHY-33 against NumPy: the error of an object after the best global phase of each group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import reference
from ptycho_contracts.testing.strategies import generators
from ptycho_data.batches import mean_counts
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.grouping.groups import group
from ptycho_torch.loader import GroupDataset
from ptycho_torch.losses import supervised_error
from ptycho_torch.physics import extract_patches


def patches(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@given(rng=generators, groups=st.integers(1, 3), channels=st.integers(1, 4), N=st.integers(2, 7))
def test_against_the_reference(rng, groups, channels, N):
    """Invariant 50: value and gradient, by finite differences of the NumPy reference."""
    estimate, truth = (patches(rng, groups, channels, N, N) for _ in range(2))
    estimate = estimate + truth
    weight = rng.uniform(size=(N, N))
    given = torch.tensor(estimate, requires_grad=True)
    result = supervised_error(given, torch.tensor(truth), torch.tensor(weight))
    assert result.item() == pytest.approx(reference.supervised_error(estimate, truth, weight), abs=1e-6)
    result.backward()
    step = 1e-5 * patches(rng, groups, channels, N, N)
    ends = [reference.supervised_error(estimate + sign * step, truth, weight) for sign in (1, -1)]
    slope = float((given.grad.conj() * torch.tensor(step)).real.sum())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-3, abs=1e-9)


@given(rng=generators, angles=st.lists(st.floats(-4, 4), min_size=2, max_size=2))
def test_a_phase_of_each_group_is_free(rng, angles):
    """0 at the truth turned by any angle, the least value; 1 for an object of zeros; groups turn on their own."""
    truth = torch.tensor(patches(rng, 2, 3, 5, 5), dtype=torch.complex64)
    weight = torch.rand((5, 5), generator=torch.Generator().manual_seed(1))
    turned = truth * torch.polar(torch.ones(2), torch.tensor(angles))[:, None, None, None]
    assert float(supervised_error(turned, truth, weight)) == pytest.approx(0, abs=1e-6)
    assert float(supervised_error(0 * truth, truth, weight)) == pytest.approx(1, abs=1e-3)
    if abs(np.exp(1j * angles[0]) - np.exp(1j * angles[1])) > 0.3:
        assert float(supervised_error(turned.flatten(0, 1)[None], truth.flatten(0, 1)[None], weight)) > 1e-3


def test_finite_where_the_correlation_is_zero():
    """PHY-19, invariant 53: no estimate, no correlation, no truth: finite gradients."""
    one, none = torch.ones((1, 1, 2, 2), dtype=torch.complex64), torch.zeros((1, 1, 2, 2), dtype=torch.complex64)
    apart = torch.tensor([[[[1, 1], [-1, -1]]]], dtype=torch.complex64)
    for estimate, truth in ((none, one), (apart, one), (one, none), (none, none)):
        given = estimate.clone().requires_grad_()
        loss = supervised_error(given, truth, torch.ones((2, 2)))
        loss.backward()
        assert torch.isfinite(given.grad.real).all()
        assert torch.isfinite(given.grad.imag).all()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_what_the_model_sums(gridsize, scan, make_model):
    """TRN-15: last estimate plus 0.3 of every earlier one, weighted by the illumination, by the NumPy reference."""
    groups = group(scan.positions_px, gridsize=gridsize, n_groups=5, seed=0)
    batch = GroupDataset(scan, groups, mean_counts=mean_counts(scan), truth=True)[np.arange(len(groups))]
    canvas = group_canvas_shape(groups.coords_relative, scan.N, multiple=8)
    model = make_model(scan.probe, gridsize=gridsize, iterations=3, stir=0.05)
    with torch.no_grad():
        result = model.loss(batch, canvas_shape=canvas, kind="amplitude")
        estimates, placement, _ = model(batch, canvas_shape=canvas)
    truth = reference.extract_patches(
        scan.object_truth, scan.positions_px[groups.nn_indices.ravel()], scan.N, scan.object_origin_yx_px
    ).reshape(batch["truth"].shape)
    weight = (np.abs(scan.probe) ** 2).sum(0)
    errors = [
        reference.supervised_error(extract_patches(each, placement).reshape(truth.shape), truth, weight / weight.max())
        for each in estimates
    ]
    assert float(result.supervised_last) == pytest.approx(errors[-1], rel=1e-4)
    assert float(result.supervised) == pytest.approx(errors[-1] + 0.3 * sum(errors[:-1]), rel=1e-4)
    del batch["truth"]
    bare = model.loss(batch, canvas_shape=canvas, kind="amplitude")
    assert bare.supervised is bare.supervised_last is None
    assert float(bare.last) == float(result.last)
