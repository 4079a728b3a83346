"""Inference with a trained model: on a whole canvas, or group by group. Imports no trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.physics import PassSchedule
from ptycho_data.batches import GroupBatches
from ptycho_data.canvas import Sites
from ptycho_data.canvas.illumination import power_of
from ptycho_data.workflows import CanvasTask

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.loader import make_loader, signature_of
from ptycho_tf.model import PtychoModel
from ptycho_tf.passes import StreamPasses
from ptycho_tf.physics import Placement, Tensor, extract_patches, good_pixels, simulate, to_centre
from ptycho_tf.prior import PriorNet


def estimates_on_canvas(model: PtychoModel, task: CanvasTask) -> list[NDArray[np.complex64]]:
    """What :meth:`ptycho_data.workflows.Backend.infer_canvas` describes."""
    network: Any = model.network  # one that infers a whole canvas
    estimates = network(
        lambda subset: tf.constant(task.moduli.read(subset)),
        model.probe,
        Placement.of(task.sites),
        subsets=[task.sites[subset] for subset in task.subsets],
        mask=good_pixels(task.bad_pixels),
        start=None if task.start is None else tf.constant(task.start),
    )
    return [estimate.numpy() for estimate in (estimates[-1:] if task.start is None else estimates)]


def passes_on_canvas(probe: NDArray[np.complex64], task: CanvasTask, schedule: PassSchedule) -> NDArray[np.complex64]:
    """What :meth:`ptycho_data.workflows.Backend.passes_on_canvas` describes."""
    passes = StreamPasses(
        lambda subset: tf.constant(task.moduli.read(subset)),
        tf.constant(probe),
        [task.sites[subset] for subset in task.subsets],
        good_pixels(task.bad_pixels),
        momentum=schedule.momentum,
        smoothing=None if schedule.smoothing_counts is None else schedule.smoothing_counts / task.moduli.mean_counts,
        pulled=task.prior is not None,
    )
    object_ = tf.constant(task.first_object())
    task.show(lambda: object_.numpy())
    dampings = tf.constant(schedule.dampings()) * float(power_of(probe).max())
    velocity, net, pull = tf.zeros_like(object_), None, None
    if task.prior is not None:
        net, pull = PriorNet.pretrained(), (object_, tf.constant(0.0))
    for number in range(schedule.passes):
        if net is not None and task.pulls_anew(number):
            sigma, weight = task.pull(number / schedule.passes)
            pull = net(object_[None], tf.fill((1, *object_.shape), sigma))[0], tf.constant(weight)
        some, ends = dampings[number : number + 1], number == schedule.passes - 1
        object_, velocity = passes(object_, velocity, some, ends_with_mean=ends, pull=pull)
    result: NDArray[np.complex64] = object_.numpy()
    return result


def group_patches(
    model: PtychoModel, groups: GroupBatches, *, batch_size: int, num_workers: int = 0, device: str = "cpu"
) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.int64]]]:
    """What :meth:`ptycho_data.workflows.Backend.infer_groups` describes; workers are threads."""
    shape = groups.canvas_shape
    with on_device(device):
        mask = good_pixels(groups.source.bad_pixels)

        @tf.function(input_signature=[signature_of(groups)], autograph=False)
        def patches_of(batch: dict[str, Tensor]) -> Tensor:
            estimates, placement, _ = model(batch, canvas_shape=shape, mask=mask)
            return extract_patches(estimates[-1], placement)

        for batch in make_loader(groups, batch_size=batch_size, shuffle=False, num_workers=num_workers):
            yield patches_of(batch).numpy(), batch["nn_indices"].numpy().ravel()


def expected_counts(
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    sites: Sites,
    *,
    background: NDArray[np.float32] | None = None,
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Function of indices to their expected counts (n, N, N); arguments as of ``Backend.residual``."""
    canvas, modes, placement = tf.constant(object_), tf.constant(probe), Placement.of(sites)
    added = tf.zeros(probe.shape[1:]) if background is None else tf.constant(background)

    def expected(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        chosen = placement[indices]
        result: NDArray[np.float32] = _counts(canvas, modes, added, chosen.corners_yx, chosen.fractions_yx).numpy()
        return result

    return expected


@partial(tf.function, autograph=False)  # a graph for each shape: relaxed ones would not know N or the canvas
def _counts(canvas: Tensor, probe: Tensor, background: Tensor, corners_yx: Tensor, fractions_yx: Tensor) -> Tensor:
    sites = Placement(corners_yx, fractions_yx, tuple(canvas.shape), int(probe.shape[-1]))
    return to_centre(simulate(extract_patches(canvas, sites), probe) + background)
