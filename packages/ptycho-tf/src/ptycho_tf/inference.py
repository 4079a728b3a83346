"""From a scan and a trained model to an object, on one canvas or by stitching groups. Imports no trainer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Groups
from ptycho_data.geometry import group_canvas_shape
from ptycho_data.stitch import Stitcher

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.loader import GroupDataset
from ptycho_tf.model import PtychoModel, good_pixels
from ptycho_tf.physics import (
    Placement,
    Tensor,
    extract_patches,
    illumination,
    place_scan,
    squared_modulus,
    to_corner,
)
from ptycho_tf.runs import Progress, ScanView

_GROUP_BATCH = 32


class MeasuredModuli:
    """Moduli of a scan's used patterns, read when they are asked for: memory is that of one subset."""

    def __init__(self, view: ScanView, *, steps: int, progress: Progress | None) -> None:
        self._view = view
        self._steps, self._done, self._progress = steps, 0, progress

    def __getitem__(self, subset: Tensor) -> Tensor:
        """(n, N, N) moduli for a probe of unit energy, zero frequency at [0, 0]."""
        counts = self._view.source.counts(self._view.used[np.asarray(subset)])
        self._done += 1
        if self._progress is not None:
            self._progress("imaging", self._done, self._steps)
        return tf.sqrt(to_corner(tf.constant(counts)) / self._view.mean_counts)


def image_on_canvas(
    model: PtychoModel,
    view: ScanView,
    *,
    batch_size: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """All used patterns on one canvas: the network's iterations as sweeps over subsets of the scan.

    Args:
        model: Its probe has unit energy.
        view: The scan.
        batch_size: Most patterns in a subset; chosen from the overlap where not given.
        device: From :func:`ptycho_tf.devices.pick_device`.

    Returns:
        (H, W) complex64, for a probe of unit energy.
    """
    with on_device(device):
        placement = place_scan(view.positions_px, view.geometry, view.source.N)[view.used]
        subsets = sweep_subsets(model.probe, placement, batch_size=batch_size)
        steps = len(subsets) * model.config.iterations * model.config.sweeps
        estimates = model.network(
            MeasuredModuli(view, steps=steps, progress=progress),
            model.probe,
            placement,
            subsets=subsets,
            mask=good_pixels(view.source.bad_pixels),
        )
        found: NDArray[np.complex64] = estimates[-1].numpy()
        return found


def sweep_subsets(probe: Tensor, placement: Placement, *, batch_size: int | None = None) -> list[Tensor]:
    """Disjoint subsets of the patterns, each about as sparse as to light the canvas once.

    The order is a fixed permutation: the same scan gives the same image.
    """
    light = illumination(probe, placement).numpy()
    brightest = squared_modulus(probe).numpy().sum(0).max()
    layers = np.square(light).sum() / light.sum() / brightest
    count = max(1, min(len(placement), math.ceil(float(layers))))
    if batch_size is not None:
        count = max(count, math.ceil(len(placement) / batch_size))
    order = np.random.default_rng(0).permutation(len(placement))
    return [tf.constant(part) for part in np.array_split(order, count)]


def image_by_groups(
    model: PtychoModel,
    view: ScanView,
    groups: Groups,
    *,
    batch_size: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """Each group on a canvas of its own; the patches under each position are stitched, weighted by |P|^2.

    Args:
        batch_size: Most patterns at once.

    Returns:
        (H, W) complex64, for a probe of unit energy; 1 where nothing was stitched.
    """
    channels = groups.nn_indices.shape[1]
    step = _GROUP_BATCH if batch_size is None else max(1, batch_size // channels)
    shape = group_canvas_shape(groups.coords_relative, view.source.N, multiple=8)
    scans = np.unique(np.asarray(view.source.scan_index)[view.used])
    dataset = GroupDataset(view.source, groups, mean_counts={int(scan): view.mean_counts for scan in scans})
    weight = squared_modulus(model.probe).numpy().sum(0)
    stitcher = Stitcher(view.geometry)
    with on_device(device):
        mask = good_pixels(view.source.bad_pixels)

        @tf.function(input_signature=[dataset.signature])
        def patches_of(batch: dict[str, Tensor]) -> Tensor:
            estimates, placement, _ = model(batch, canvas_shape=shape, mask=mask)
            return extract_patches(estimates[-1], placement)

        for first in range(0, len(groups), step):
            rows = np.arange(first, min(first + step, len(groups)))
            batch = {name: tf.constant(value) for name, value in dataset[rows].items()}
            stitcher.add(patches_of(batch).numpy(), view.positions_px[groups.nn_indices[rows].ravel()], weight)
            if progress is not None:
                progress("groups", int(rows[-1]) + 1, len(groups))
    canvas, seen = stitcher.result()
    return np.where(seen > 0, canvas, np.complex64(1))
