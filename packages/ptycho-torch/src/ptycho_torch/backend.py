"""PyTorch as a backend of the workflows (``ptycho_data.workflows.backend``), and the workflows with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.physics import PassSchedule
from ptycho_data import workflows
from ptycho_data.batches import GroupBatches, PatternSource
from ptycho_data.bundle_file import Bundle
from ptycho_data.canvas import Sites
from ptycho_data.fitting import FarFieldResidual, JointFit, TrainingOutcome, far_field_residual, joint_reconstruction
from ptycho_data.stages import Progress

from ptycho_torch.bundle import load_bundle, save_bundle
from ptycho_torch.config_factory import create_inference_payload, create_training_payload
from ptycho_torch.devices import pick_device, threads
from ptycho_torch.inference import estimates_on_canvas, expected_counts, group_patches, passes_on_canvas
from ptycho_torch.joint import JointParameters
from ptycho_torch.model import PtychoModel

__all__ = [
    "BACKEND",
    "create_inference_payload",
    "create_training_payload",
    "evaluate",
    "infer",
    "load",
    "reconstruct",
    "save",
    "train",
]


class TorchBackend:
    """Physics, networks and trainer in PyTorch; methods as in :class:`ptycho_data.workflows.backend.Backend`.

    Joint reconstruction and inference work on minibatches that fit in a core's cache. In measurements a second CPU
    thread cost more CPU time than it saved, and on a busy machine more wall time too.
    """

    name = "torch"

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("ptycho-torch", "torch")}

    def device(self, execution: ExecutionConfig, *, training: bool = False) -> str:
        return str(pick_device(execution))

    def fit(
        self, task: workflows.TrainingTask, *, progress: Progress | None = None
    ) -> tuple[PtychoModel, TrainingOutcome]:
        from ptycho_torch.training import fit  # Lightning takes a second to import, and only training needs it

        # Weights and every other random choice come from the seed; the caller's generators stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(task.training.seed)  # torch.manual_seed would reseed GPUs too
            model = PtychoModel(task.config, task.probe)
            if task.start is not None:
                model.network.load_state_dict(task.start.network.state_dict())
            return model, fit(model, task, progress=progress)

    def infer_canvas(self, model: PtychoModel, task: workflows.CanvasTask) -> list[NDArray[np.complex64]]:
        with threads(1):
            return estimates_on_canvas(model.on(task.device), task)

    def passes_on_canvas(
        self, probe: NDArray[np.complex64], task: workflows.CanvasTask, schedule: PassSchedule
    ) -> NDArray[np.complex64]:
        with threads(1):
            return passes_on_canvas(probe, task, schedule)

    def infer_groups(
        self, model: PtychoModel, groups: GroupBatches, *, batch_size: int, num_workers: int, device: str
    ) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.int64]]]:
        with threads(1):
            yield from group_patches(model.on(device), groups, batch_size=batch_size, num_workers=num_workers)

    def joint_fit(
        self, source: PatternSource, sites: Sites, probe: NDArray[np.complex64], *, device: str, **options: Any
    ) -> JointFit:
        with threads(1):
            return joint_reconstruction(partial(JointParameters, device=device), source, sites, probe, **options)

    def residual(
        self,
        source: PatternSource,
        object_: NDArray[np.complex64],
        probe: NDArray[np.complex64],
        sites: Sites,
        indices: NDArray[np.int64],
        *,
        device: str,
        background: NDArray[np.float32] | None = None,
    ) -> FarFieldResidual:
        expected = expected_counts(object_, probe, sites, background=background)
        with threads(1):
            return far_field_residual(expected, source, indices, modes=len(probe))

    def load(self, path: Path | str) -> Bundle:
        return load_bundle(path)

    def save(self, path: Path | str, bundle: Bundle) -> None:
        save_bundle(path, bundle)


BACKEND = TorchBackend()
train = partial(workflows.train, BACKEND)
infer = partial(workflows.infer, BACKEND)
reconstruct = partial(workflows.reconstruct, BACKEND)
evaluate = partial(workflows.evaluate_scan, BACKEND)
load, save = BACKEND.load, BACKEND.save
