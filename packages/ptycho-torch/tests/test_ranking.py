"""A lower loss means a better object, on control sets with known truth (specs/physics.md PHY-20a)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.metrics import align
from ptycho_data.simulate import simulate
from ptycho_torch.backend import BACKEND
from ptycho_torch.losses import LOSSES
from ptycho_torch.physics import Placement, extract_patches, illumination, to_corner
from ptycho_torch.physics import simulate as far_field
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

BOUND = 0.9
MIXED_BOUND = 0.8
"""Between kinds of error the loss orders only loosely: it weighs them differently."""
both = pytest.mark.parametrize("loss", sorted(LOSSES))


@pytest.fixture(scope="module")
def ranked(view_of):
    """A noisy scan of 100 patterns of 32 x 32 with its truth on the scan's canvas, a tenth of it held out."""
    scan = simulate(object_kind="dead_leaves", N=32, n_patterns=100, step_px=3.0, photons_per_pattern=1e5, seed=3)
    held = np.random.default_rng(0).permutation(len(scan))[:10]
    view = view_of(scan, held=held)
    (y, x), (height, width) = view.geometry.origin_yx_px.astype(int), view.geometry.shape
    truth = scan.object_truth.astype(np.complex128)[y : y + height, x : x + width]
    assert truth.shape == view.geometry.shape
    return scan, view, held, truth


@pytest.fixture(scope="module")
def scored(ranked):
    """Loss on patterns that no fit has used, and error after alignment, of objects on the scan's canvas."""
    scan, view, held, truth = ranked
    placement, probe = (Placement.of(view.sites), torch.from_numpy(normalised_probe(scan.probe, 1.0)))
    weight = illumination(probe, placement).numpy()
    measured = to_corner(torch.from_numpy(scan.counts(held))) / view.mean_counts

    def figures(object_, loss):
        canvas = torch.from_numpy(object_.astype(np.complex64))
        simulated = far_field(extract_patches(canvas, placement[torch.from_numpy(held)]), probe)
        value = LOSSES[loss](simulated.double(), measured.double(), eps=EPS_COUNTS / view.mean_counts)
        aligned = align(object_, truth, weight=weight)
        error = np.abs(aligned.estimate - aligned.truth)[aligned.mask]
        return float(value), float(np.sqrt(np.mean(error**2)))

    return figures


def disturbed(truth):
    """Families of objects: the truth, disturbed in one way at growing strength."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)
    smooth = gaussian_filter(rng.normal(size=truth.shape), 12.0)
    smooth /= smooth.std()
    parts = gaussian_filter(rng.normal(size=truth.shape), 4.0) > 0
    return {
        "white noise": [truth + strength * noise for strength in (0.01, 0.02, 0.04, 0.08, 0.16)],
        "blur": [gaussian_filter(truth, width) for width in (0.7, 1.0, 1.5, 2.0, 3.0)],
        "smooth phase": [truth * np.exp(1j * strength * smooth) for strength in (0.1, 0.2, 0.4, 0.8)],
        "scaled amplitude": [truth * np.where(parts, 1 - strength, 1) for strength in (0.05, 0.1, 0.2, 0.4)],
    }


def rank_correlation(figures):
    return spearmanr(*zip(*figures, strict=True)).statistic


@both
@pytest.mark.parametrize("family", ["white noise", "blur", "smooth phase", "scaled amplitude"])
def test_loss_ranks_disturbed_objects(ranked, scored, loss, family):
    """Invariant 47: the stronger the disturbance, the greater the error, and the loss ranks as the error does."""
    truth = ranked[-1]
    figures = [scored(object_, loss) for object_ in (truth, *disturbed(truth)[family])]
    errors = [error for _, error in figures]
    assert errors == sorted(errors)
    assert rank_correlation(figures) >= BOUND


@both
def test_loss_ranks_unfinished_fits(ranked, scored, loss):
    """Invariant 47: of fits of more and more epochs with the true probe, lower loss is lower error."""
    scan, view, _, _ = ranked
    figures = []
    for epochs in (1, 2, 4, 8, 16):
        fit = BACKEND.joint_fit(
            scan,
            view.sites,
            scan.probe,
            device="cpu",
            indices=view.used,
            mean_counts=view.mean_counts,
            epochs=epochs,
            batch_size=16,
            object_learning_rate=0.02,
            probe_learning_rate=0.0,
            loss=loss,
            seed=0,
        )
        figures.append(scored(fit.object.astype(np.complex128), loss))
    assert rank_correlation(figures) >= BOUND


@both
def test_loss_ranks_a_mixed_set(ranked, scored, loss):
    """Invariant 47: all kinds of errors as one set, but for smooth phases, which the data hardly see (PHY-26)."""
    truth = ranked[-1]
    families = disturbed(truth)
    del families["smooth phase"]
    figures = [scored(object_, loss) for family in families.values() for object_ in family]
    assert rank_correlation(figures) >= MIXED_BOUND


def test_poisson_loss_prefers_the_truth(ranked, scored):
    """Invariant 47: on noisy counts nothing in the control set has a lower Poisson loss than the true object."""
    truth = ranked[-1]
    least, _ = scored(truth, "poisson")
    for family, objects in disturbed(truth).items():
        assert least < min(scored(object_, "poisson")[0] for object_ in objects), family
