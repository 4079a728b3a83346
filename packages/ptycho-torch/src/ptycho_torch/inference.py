"""From a scan and a trained model to an object, on one canvas or by stitching groups. Imports no trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.records import Groups
from ptycho_data.batches.read_ahead import read_ahead
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.canvas.stitching import Stitcher
from ptycho_data.stages import Progress
from ptycho_data.workflows.prepared_scan import ScanView
from torch import Tensor

from ptycho_torch.loader import GroupDataset, make_loader
from ptycho_torch.model import PtychoModel, good_pixels
from ptycho_torch.physics import Placement, extract_patches, illumination, place_scan, squared_modulus, to_corner

_GROUP_BATCH = 32


def placement_of(view: ScanView) -> Placement:
    """Sites of all of a scan's patterns on its canvas."""
    return place_scan(view.positions_px, view.geometry, view.source.N)


class MeasuredModuli:
    """Moduli of a scan's used patterns, read when they are asked for: memory is that of a few subsets.

    Args:
        view: The scan.
        subsets: The subsets in the order in which they will be asked for.
        sweeps: How often that order comes round.
        device: Where the moduli go.
        workers: Threads that read subsets ahead.
        progress: Called as ``progress("imaging", subsets done, subsets in all)``.
    """

    def __init__(
        self,
        view: ScanView,
        subsets: Sequence[Tensor],
        *,
        sweeps: int,
        device: torch.device,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        rows = [view.used[part.cpu().numpy()] for part in subsets] * sweeps
        self._counts = read_ahead(view.source.counts, rows, workers=workers)
        self._mean_counts, self._device, self._progress = view.mean_counts, device, progress
        self._done, self._steps = 0, len(rows)

    def __getitem__(self, subset: Tensor) -> Tensor:
        """(n, N, N) moduli for a probe of unit energy, zero frequency at [0, 0]."""
        counts = next(self._counts)
        self._done += 1
        if self._progress is not None:
            self._progress("imaging", self._done, self._steps)
        return (to_corner(torch.from_numpy(counts).to(self._device)) / self._mean_counts).sqrt()

    def close(self) -> None:
        """End the readers."""
        self._counts.close()


def image_on_canvas(
    model: PtychoModel,
    view: ScanView,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """All used patterns on one canvas: the network's iterations as sweeps over subsets of the scan.

    Args:
        model: On the device to work on; its probe has unit energy.
        view: The scan.
        batch_size: Most patterns in a subset; chosen from the overlap where not given.
        num_workers: Threads that read patterns ahead.

    Returns:
        (H, W) complex64, for a probe of unit energy.
    """
    device = model.probe.device
    mask = good_pixels(view.source.bad_pixels)
    placement = placement_of(view)[torch.from_numpy(view.used)].to(device)
    subsets = sweep_subsets(model.probe, placement, batch_size=batch_size)
    sweeps = model.config.iterations * model.config.sweeps
    moduli = MeasuredModuli(view, subsets, sweeps=sweeps, device=device, workers=num_workers, progress=progress)
    with closing(moduli), torch.inference_mode():
        estimates = model.network(
            moduli,
            model.probe,
            placement,
            subsets=[part.to(device) for part in subsets],
            mask=None if mask is None else mask.to(device),
        )
    found: NDArray[np.complex64] = estimates[-1].cpu().numpy()
    return found


def sweep_subsets(probe: Tensor, placement: Placement, *, batch_size: int | None = None) -> list[Tensor]:
    """Disjoint subsets of the patterns, each about as sparse as to light the canvas once.

    The order is a fixed permutation: the same scan gives the same image.
    """
    light = illumination(probe, placement)
    brightest = squared_modulus(probe).sum(0).max()
    layers = light.square().sum() / light.sum() / brightest
    count = max(1, min(len(placement), math.ceil(float(layers))))
    if batch_size is not None:
        count = max(count, math.ceil(len(placement) / batch_size))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(placement)))
    return list(torch.tensor_split(order, count))


def image_by_groups(
    model: PtychoModel,
    view: ScanView,
    groups: Groups,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """Each group on a canvas of its own; the patches under each position are stitched, weighted by |P|^2.

    Args:
        batch_size: Most patterns at once.
        num_workers: Processes that read patterns ahead.

    Returns:
        (H, W) complex64, for a probe of unit energy; 1 where nothing was stitched.
    """
    channels = groups.nn_indices.shape[1]
    step = _GROUP_BATCH if batch_size is None else max(1, batch_size // channels)
    shape = group_canvas_shape(groups.coords_relative, view.source.N, multiple=8)
    scans = np.unique(np.asarray(view.source.scan_index)[view.used])
    dataset = GroupDataset(view.source, groups, mean_counts={int(scan): view.mean_counts for scan in scans})
    device = model.probe.device
    mask = good_pixels(view.source.bad_pixels)
    mask = None if mask is None else mask.to(device)
    weight = squared_modulus(model.probe).sum(0).cpu().numpy()
    stitcher = Stitcher(view.geometry)
    done = 0
    for loaded in make_loader(dataset, batch_size=step, shuffle=False, num_workers=num_workers):
        batch = {name: value.to(device) for name, value in loaded.items()}
        with torch.inference_mode():
            estimates, placement, _ = model(batch, canvas_shape=shape, mask=mask)
            patches = extract_patches(estimates[-1], placement).cpu().numpy()
        stitcher.add(patches, view.positions_px[loaded["nn_indices"].numpy().ravel()], weight)
        done += len(patches) // channels
        if progress is not None:
            progress("groups", done, len(groups))
    canvas, seen = stitcher.result()
    return np.where(seen > 0, canvas, np.complex64(1))
