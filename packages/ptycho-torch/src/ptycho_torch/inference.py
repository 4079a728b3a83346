"""Inference with a trained model: on a whole canvas, or group by group. Imports no trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.physics import PassSchedule
from ptycho_data.batches import GroupBatches
from ptycho_data.canvas import Sites
from ptycho_data.workflows import CanvasTask

from ptycho_torch.loader import GroupDataset, make_loader
from ptycho_torch.model import PtychoModel
from ptycho_torch.network import CanvasPasses, Moduli
from ptycho_torch.physics import Placement, extract_patches, good_pixels, simulate
from ptycho_torch.prior import PriorNet


def estimates_on_canvas(model: PtychoModel, task: CanvasTask) -> list[NDArray[np.complex64]]:
    """What :meth:`ptycho_data.workflows.Backend.infer_canvas` describes, with a model on the task's device."""
    start = None if task.start is None else torch.from_numpy(task.start).to(task.device)
    with torch.inference_mode():
        amplitude, placement, places = _on_device(task)
        estimates = model.network(amplitude, model.probe, placement, **places, start=start)
    return [estimate.cpu().numpy() for estimate in (estimates[-1:] if start is None else estimates)]


def passes_on_canvas(probe: NDArray[np.complex64], task: CanvasTask, schedule: PassSchedule) -> NDArray[np.complex64]:
    """What :meth:`ptycho_data.workflows.Backend.passes_on_canvas` describes."""
    with torch.inference_mode():
        amplitude, placement, places = _on_device(task)
        modes = torch.from_numpy(probe).to(task.device)
        counts = schedule.smoothing_counts
        smoothing = None if counts is None else counts / task.moduli.mean_counts
        passes = CanvasPasses(amplitude, modes, placement, **places, momentum=schedule.momentum, smoothing=smoothing)
        object_ = torch.from_numpy(task.first_object()).to(task.device)
        task.show(lambda: object_.cpu().numpy().copy())
        velocity, dampings, pull = torch.zeros_like(object_), schedule.dampings(), None
        net = None if task.prior is None else PriorNet.pretrained().to(task.device)
        for number, damping in enumerate(dampings):
            if net is not None and task.pulls_anew(number):
                sigma, weight = task.pull(number / schedule.passes)
                pull = net(object_[None], object_.real.new_full((1, *object_.shape), sigma))[0], weight
            ends = number == len(dampings) - 1
            object_, velocity = passes(object_, velocity, [damping], ends_with_mean=ends, pull=pull)
    result: NDArray[np.complex64] = object_.cpu().numpy()
    return result


def _on_device(task: CanvasTask) -> tuple[Moduli, Placement, dict[str, Any]]:
    """Moduli by subset, placement, and subsets with the mask."""
    return (
        lambda subset: torch.from_numpy(task.moduli.read(subset)).to(task.device),
        Placement.of(task.sites).to(torch.device(task.device)),
        {
            "subsets": [torch.from_numpy(subset).to(task.device) for subset in task.subsets],
            "mask": good_pixels(task.bad_pixels, task.device),
        },
    )


def group_patches(
    model: PtychoModel, groups: GroupBatches, *, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.int64]]]:
    """What :meth:`ptycho_data.workflows.Backend.infer_groups` describes; workers are processes."""
    device, shape = model.probe.device, groups.canvas_shape
    mask = good_pixels(groups.source.bad_pixels, device)
    for loaded in make_loader(GroupDataset.of(groups), batch_size=batch_size, shuffle=False, num_workers=num_workers):
        batch = {name: value.to(device) for name, value in loaded.items()}
        with torch.inference_mode():
            estimates, placement, _ = model(batch, canvas_shape=shape, mask=mask)
            patches = extract_patches(estimates[-1], placement).cpu().numpy()
        yield patches, loaded["nn_indices"].numpy().ravel()


def expected_counts(
    object_: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    sites: Sites,
    *,
    background: NDArray[np.float32] | None = None,
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Function of indices to their expected counts (n, N, N); arguments as of ``Backend.residual``."""
    canvas, modes, placement = torch.from_numpy(object_), torch.from_numpy(probe), Placement.of(sites)
    added = None if background is None else torch.from_numpy(background)

    def expected(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            simulated = simulate(extract_patches(canvas, placement[torch.from_numpy(indices)]), modes)
            counts = simulated if added is None else simulated + added
            result: NDArray[np.float32] = torch.fft.fftshift(counts, dim=(-2, -1)).numpy()
            return result

    return expected
