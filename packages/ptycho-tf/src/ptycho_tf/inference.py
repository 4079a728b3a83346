"""From a scan and a trained model to an object, on one canvas or by stitching groups. Imports no trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Groups
from ptycho_data.batches.read_ahead import read_ahead
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.canvas.stitching import Stitcher
from ptycho_data.stages import Progress
from ptycho_data.workflows.prepared_scan import ScanView

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.loader import GroupDataset, make_loader
from ptycho_tf.model import PtychoModel, good_pixels
from ptycho_tf.physics import Placement, Tensor, extract_patches, place_scan, squared_modulus
from ptycho_tf.sweeps import scan_light

_GROUP_BATCH = 32


class MeasuredModuli:
    """Moduli of a scan's used patterns, read when they are asked for: memory is that of a few subsets.

    Args:
        view: The scan.
        subsets: The subsets in the order in which they will be asked for.
        sweeps: How often that order comes round.
        workers: Threads that read subsets ahead.
        progress: Called as ``progress("imaging", subsets done, subsets in all)``.
    """

    def __init__(
        self,
        view: ScanView,
        subsets: Sequence[Tensor],
        *,
        sweeps: int,
        workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        rows = [view.used[part.numpy()] for part in subsets] * sweeps
        self._counts = read_ahead(view.source.counts, rows, workers=workers)
        self._mean_counts, self._progress = view.mean_counts, progress
        self._done, self._steps = 0, len(rows)

    def __getitem__(self, subset: Tensor) -> Tensor:
        """(n, N, N) moduli for a probe of unit energy, zero frequency at [0, 0]."""
        # In NumPy: shifts of small batches cost TensorFlow several times as much.
        counts = np.fft.ifftshift(next(self._counts), axes=(-2, -1))
        self._done += 1
        if self._progress is not None:
            self._progress("imaging", self._done, self._steps)
        return tf.constant(np.sqrt(counts / np.float32(self._mean_counts)))

    def close(self) -> None:
        """End the readers."""
        self._counts.close()


def image_on_canvas(
    model: PtychoModel,
    view: ScanView,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """All used patterns on one canvas: the network's iterations as sweeps over subsets of the scan.

    Args:
        model: Its probe has unit energy.
        view: The scan.
        batch_size: Most patterns in a subset; chosen from the overlap where not given.
        num_workers: Threads that read patterns ahead.
        device: From :func:`ptycho_tf.devices.pick_device`.

    Returns:
        (H, W) complex64, for a probe of unit energy.
    """
    with on_device(device):
        placement = place_scan(view.positions_px, view.geometry, view.source.N)[view.used]
        subsets = sweep_subsets(model.probe, placement, batch_size=batch_size)
        sweeps = model.config.iterations * model.config.sweeps
        moduli = MeasuredModuli(view, subsets, sweeps=sweeps, workers=num_workers, progress=progress)
        mask = good_pixels(view.source.bad_pixels)
        with closing(moduli):
            estimates = model.network(moduli, model.probe, placement, subsets=subsets, mask=mask)
        found: NDArray[np.complex64] = estimates[-1].numpy()
        return found


def sweep_subsets(probe: Tensor, placement: Placement, *, batch_size: int | None = None) -> list[Tensor]:
    """Disjoint subsets of the patterns, each about as sparse as to light the canvas once.

    The order is a fixed permutation: the same scan gives the same image.
    """
    light = scan_light(probe, placement)
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
    num_workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """Each group on a canvas of its own; the patches under each position are stitched, weighted by |P|^2.

    Args:
        batch_size: Most patterns at once.
        num_workers: Threads that read patterns ahead.

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

        @tf.function(input_signature=[dataset.signature], autograph=False)
        def patches_of(batch: dict[str, Tensor]) -> Tensor:
            estimates, placement, _ = model(batch, canvas_shape=shape, mask=mask)
            return extract_patches(estimates[-1], placement)

        done = 0
        for batch in make_loader(dataset, batch_size=step, shuffle=False, num_workers=num_workers):
            members = batch["nn_indices"].numpy()
            stitcher.add(patches_of(batch).numpy(), view.positions_px[members.ravel()], weight)
            done += len(members)
            if progress is not None:
                progress("groups", done, len(groups))
    canvas, seen = stitcher.result()
    return np.where(seen > 0, canvas, np.complex64(1))
