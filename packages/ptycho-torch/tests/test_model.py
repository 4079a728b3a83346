"""Network and physics as one thing: coordinates, units and gradients of the training loss (PHY-14, PHY-15)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.records import Scan
from ptycho_contracts.testing import reference, strategies
from ptycho_data.batches import mean_counts
from ptycho_data.canvas.geometry import canvas_geometry, group_canvas_shape
from ptycho_data.fitting import Attempts
from ptycho_data.grouping.groups import group
from ptycho_torch.loader import GroupDataset
from ptycho_torch.losses import amplitude_loss
from ptycho_torch.physics import extract_patches, good_pixels, simulate, unit_probe
from ptycho_torch.training import _Module

ARCHITECTURES = ("unrolled", "cnn")


def batch_of(scan, gridsize, *, n_groups=6, dtype=torch.float32):
    """Tensors of some groups, and their canvas."""
    groups = group(scan.positions_px, gridsize=gridsize, n_groups=n_groups, seed=1)
    batch = GroupDataset(scan, groups, mean_counts=mean_counts(scan))[np.arange(len(groups))]
    shape = group_canvas_shape(groups.coords_relative, scan.N, multiple=8)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}, shape


@pytest.mark.parametrize(("N", "gridsize"), [(16, 1), (16, 2), (15, 2)])
def test_the_truth_has_no_loss_on_the_training_path(N, gridsize, make_model):
    """Invariants 12, 21: counts of the NumPy reference, grouped, gathered and scatter-added, fit the true object.

    Whole positions whose groups have whole centres: no interpolation blurs a mistake.
    """
    rng = np.random.default_rng(N)
    x, y = np.meshgrid(np.arange(0, 12, 4.0), np.arange(0, 16, 4.0))
    where = np.stack([x.ravel() + 1000, y.ravel() - 500], 1)
    origin, shape = reference.canvas_geometry(where, N)
    truth = rng.uniform(0.4, 1, shape) * np.exp(1j * rng.uniform(-2, 2, shape))
    probe = reference.normalised_probe(rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N)), 1e4)
    counts = reference.simulate_counts(reference.extract_patches(truth, where, N, origin), probe)
    scan = Scan(
        measurements=counts.astype(np.float32), unit="counts", positions_px=where, probe=probe.astype(np.complex64)
    )
    members = np.array([[0], [5], [11]]) if gridsize == 1 else np.array([[0, 1, 3, 4], [4, 7, 8, 5], [10, 7, 11, 8]])
    groups = strategies.grouped(where, members)
    mean = float(np.abs(probe**2).sum())  # of the probe with which the NumPy reference simulated
    batch = GroupDataset(scan, groups, mean_counts={0: mean})[np.arange(len(groups))]
    height, width = canvas = group_canvas_shape(groups.coords_relative, N, multiple=8)
    _, placement, measured = make_model(scan.probe, gridsize=gridsize)(batch, canvas_shape=canvas)
    windows = np.ones((len(members), height, width), np.complex64)
    for window, centre in zip(windows, where[members].mean(1), strict=True):
        top, left = (centre[::-1] - origin).astype(int) - (height // 2, width // 2)
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        inside = np.ix_((rows >= 0) & (rows < shape[0]), (columns >= 0) & (columns < shape[1]))
        window[inside] = truth[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
    unit = torch.from_numpy(probe / np.sqrt(mean)).to(torch.complex64)

    def loss(canvases):
        stacked = torch.from_numpy(np.ascontiguousarray(canvases)).reshape(-1, width)
        return float(amplitude_loss(simulate(extract_patches(stacked, placement), unit), measured, eps=1e-12))

    assert loss(windows) < 1e-6
    assert loss(windows[:, ::-1]) > 0.01
    assert loss(windows[:, :, ::-1]) > 0.01
    assert loss(np.roll(windows, 1, axis=1)) > 0.01
    assert loss(np.roll(windows, 1, axis=0)) > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("gridsize", [1, 2])
def test_loss_against_the_reference(architecture, gridsize, tiny_scan, make_model):
    """PHY-15: the loss of the model's own estimate, recomputed by the NumPy reference in counts."""
    batch, shape = batch_of(tiny_scan, gridsize)
    model = make_model(tiny_scan.probe, gridsize=gridsize, architecture=architecture, stir=0.05)
    estimates, _, _ = model(batch, canvas_shape=shape)
    result = model.loss(batch, canvas_shape=shape, kind="amplitude")
    total, last = result.total, result.last
    probe = reference.normalised_probe(tiny_scan.probe, float(batch["mean_counts"][0]))
    losses = []
    for estimate in estimates:
        canvases = estimate.detach().reshape(-1, *shape).numpy()
        simulated = [
            reference.simulate_counts(
                reference.extract_patches(canvas, -relative[0].T, 16, [-(shape[0] // 2), -(shape[1] // 2)]), probe
            )
            for canvas, relative in zip(canvases, batch["coords_relative"].double().numpy(), strict=True)
        ]
        losses.append(reference.amplitude_loss(simulated, batch["counts"].numpy(), EPS_COUNTS))
    assert float(last) == pytest.approx(losses[-1], rel=1e-4)
    assert float(total.detach()) == pytest.approx(losses[-1] + 0.3 * sum(losses[:-1]), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_dose_and_probe_scale_leave_the_object(architecture, factor, tiny_scan, make_model):
    """Invariants 1, 2: counts times k and probe times any number give the same estimates."""
    # In double precision: where a pixel is dark its phase is all rounding, which iterations amplify.
    batch, shape = batch_of(tiny_scan, 1, dtype=torch.float64)
    model = make_model(tiny_scan.probe, architecture=architecture, stir=0.02).double()
    other = make_model(tiny_scan.probe, architecture=architecture, stir=0.02).double()
    model.probe = unit_probe(torch.from_numpy(tiny_scan.probe.astype(np.complex128)))
    other.probe = unit_probe(torch.from_numpy(tiny_scan.probe.astype(np.complex128) * factor))
    brighter = batch | {"counts": batch["counts"] * factor, "mean_counts": batch["mean_counts"] * factor}
    with torch.no_grad():
        result = model(batch, canvas_shape=shape)[0][-1]
        for again in (other(batch, canvas_shape=shape)[0][-1], model(brighter, canvas_shape=shape)[0][-1]):
            torch.testing.assert_close(again, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_learns(architecture, tiny_scan, make_model):
    """Invariant 36: each has a gradient once the zero-initialised layer has moved, and is in the optimiser."""
    batch, shape = batch_of(tiny_scan, 2)
    model = make_model(tiny_scan.probe, gridsize=2, architecture=architecture).train()
    module = _Module(
        model,
        TrainingConfig(),
        ExecutionConfig(scheduler="plateau"),
        canvas_shape=shape,
        mask=None,
        attempts=Attempts(uniform_loss=1.0, epochs=1, max_seconds=None, steps=1),
    )
    optimiser = module.configure_optimizers()["optimizer"]
    owned = {id(weight) for entry in optimiser.param_groups for weight in entry["params"]}
    assert owned == {id(weight) for weight in model.parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        model.loss(batch, canvas_shape=shape, kind="poisson").total.backward()
        optimiser.step()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_double_precision(architecture, tiny_scan, make_model):
    """precision 64-true: the probe keeps its imaginary part, the loss agrees with single precision."""
    batch, shape = batch_of(tiny_scan, 2)
    model = make_model(tiny_scan.probe, gridsize=2, architecture=architecture, stir=0.02)
    single = float(model.loss(batch, canvas_shape=shape, kind="amplitude").last)
    double_batch, _ = batch_of(tiny_scan, 2, dtype=torch.float64)
    estimates, _, _ = model.double()(double_batch, canvas_shape=shape)
    assert estimates[-1].dtype == torch.complex128
    double = float(model.loss(double_batch, canvas_shape=shape, kind="amplitude").last)
    assert double == pytest.approx(single, rel=1e-3)


def test_dark_patterns_are_no_hazard(tiny_scan, make_model):
    """Invariant 53: patterns without photons beside others: finite loss and gradients."""
    batch, shape = batch_of(tiny_scan, 2)
    batch["counts"][0] = 0
    for architecture in ARCHITECTURES:
        model = make_model(tiny_scan.probe, gridsize=2, architecture=architecture, stir=0.02)
        for kind in ("amplitude", "poisson"):
            model.zero_grad()
            model.loss(batch, canvas_shape=shape, kind=kind).total.backward()
            assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["amplitude", "poisson"])
def test_uniform_loss_against_the_reference(kind, tiny_scan, make_model):
    """The loss of the best uniform object, in counts: by trying all amplitudes, with bad pixels left out."""
    batch, _ = batch_of(tiny_scan, 2)
    probe = reference.normalised_probe(tiny_scan.probe, float(batch["mean_counts"][0]))
    counts = batch["counts"].numpy()
    bad = np.zeros((16, 16), bool)
    bad[6:9, 7] = True
    batch["counts"][..., 6:9, 7] = 1e5  # would weigh more than all others
    empty = np.broadcast_to(reference.simulate_counts(np.ones((1, 16, 16)), probe), counts.shape)
    loss = {"amplitude": reference.amplitude_loss, "poisson": reference.poisson_loss}[kind]
    tried = [loss(a**2 * empty, counts, good=~bad) for a in np.linspace(0.2, 1.5, 1301)]
    assert 0 < np.argmin(tried) < 1300
    result = make_model(tiny_scan.probe, gridsize=2).uniform_loss(batch, kind=kind, mask=good_pixels(bad))
    assert result == pytest.approx(min(tried), rel=1e-3)


def test_good_pixels():
    """True marks a bad pixel with zero frequency central; the mask is 1 where good with zero frequency at [0, 0]."""
    bad = np.zeros((5, 5), bool)
    assert good_pixels(None) is None
    assert good_pixels(bad) is None
    bad[2, 2] = bad[2, 3] = True
    mask = good_pixels(bad)
    assert mask[0, 0] == mask[0, 1] == 0
    assert mask.sum() == 23


def test_the_whole_scan_fits_one_group(tiny_scan, make_model):
    """gridsize 3 of a scan of 9 patterns: one group holds all of them."""
    part = Scan(
        measurements=tiny_scan.measurements[:9],
        unit=tiny_scan.unit,
        positions_px=tiny_scan.positions_px[:9],
        probe=tiny_scan.probe,
    )
    batch, shape = batch_of(part, 3, n_groups=1)
    geometry = canvas_geometry(part.positions_px, 16)
    assert shape[0] >= geometry.shape[0] - 1
    estimates, placement, measured = make_model(part.probe, gridsize=3)(batch, canvas_shape=shape)
    assert estimates[-1].shape == shape
    assert len(placement) == len(measured) == 9
