"""From a scan and a trained model to an object, on one canvas or by stitching groups. Imports no trainer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups
from ptycho_data.batches import PatternSource
from ptycho_data.geometry import CanvasGeometry, group_canvas_shape
from ptycho_data.stitch import Stitcher
from torch import Tensor

from ptycho_torch.loader import GroupDataset, make_loader
from ptycho_torch.model import PtychoModel, good_pixels
from ptycho_torch.physics import Placement, extract_patches, illumination, squared_modulus, to_corner

Progress = Callable[[str, int, int], None]

_GROUP_BATCH = 32
_READ_AHEAD = 2


@dataclass(frozen=True, eq=False)
class ScanView:
    """One scan as imaging sees it.

    Attributes:
        source: Scan or store of one scan.
        positions_px: (M, 2) float64 [x, y] of all patterns.
        geometry: Canvas of all positions.
        placement: Sites of all patterns on it.
        used: Indices of the patterns that may be used.
        mean_counts: Mean photons of the used patterns.
    """

    source: PatternSource
    positions_px: NDArray[np.float64]
    geometry: CanvasGeometry
    placement: Placement
    used: NDArray[np.int64]
    mean_counts: float


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
        self._view, self._device, self._progress = view, device, progress
        self._to_come = iter([part.cpu().numpy() for part in subsets] * sweeps)
        self._steps, self._done = len(subsets) * sweeps, 0
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: deque[Future[NDArray[np.float32]]] = deque()

    def __enter__(self) -> MeasuredModuli:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __getitem__(self, subset: Tensor) -> Tensor:
        """(n, N, N) moduli for a probe of unit energy, zero frequency at [0, 0]."""
        counts = self._read(subset.cpu().numpy()) if self._pool is None else self._read_ahead(self._pool)
        self._done += 1
        if self._progress is not None:
            self._progress("imaging", self._done, self._steps)
        return (to_corner(torch.from_numpy(counts).to(self._device)) / self._view.mean_counts).sqrt()

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._view.source.counts(self._view.used[rows])

    def _read_ahead(self, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
        while len(self._ahead) < _READ_AHEAD and (rows := next(self._to_come, None)) is not None:
            self._ahead.append(pool.submit(self._read, rows))
        return self._ahead.popleft().result()


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
    placement = view.placement[torch.from_numpy(view.used)].to(device)
    subsets = sweep_subsets(model.probe, placement, batch_size=batch_size)
    sweeps = model.config.iterations * model.config.sweeps
    reading = MeasuredModuli(view, subsets, sweeps=sweeps, device=device, workers=num_workers, progress=progress)
    with reading as moduli, torch.inference_mode():
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


def require_one_scan(scan_index: NDArray[np.int64], *, where: str) -> None:
    """Imaging makes one object; several scans in one file are several objects.

    Raises:
        ContractError: more than one value of ``scan_index``.
    """
    scans = np.unique(scan_index)
    if len(scans) > 1:
        raise ContractError(
            Problem(where, "scan.several", "patterns of one scan", f"{len(scans)} scans: {scans[:8].tolist()}",
                    "image each scan from a file of its own")
        )  # fmt: skip
