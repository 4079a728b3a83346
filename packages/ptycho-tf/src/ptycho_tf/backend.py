"""TensorFlow as a backend of the workflows (``ptycho_data.workflows.backend``), and the workflows with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.physics import PassSchedule
from ptycho_data import workflows
from ptycho_data.batches import GroupBatches, PatternSource
from ptycho_data.bundle_file import NETWORK, Bundle
from ptycho_data.canvas import Sites
from ptycho_data.fitting import FarFieldResidual, JointFit, TrainingOutcome, far_field_residual, joint_reconstruction
from ptycho_data.stages import Progress

from ptycho_tf.bundle import load_bundle, save_bundle
from ptycho_tf.config_factory import create_inference_payload, create_training_payload
from ptycho_tf.devices import on_device, pick_device
from ptycho_tf.inference import estimates_on_canvas, expected_counts, group_patches, passes_on_canvas
from ptycho_tf.joint import JointParameters
from ptycho_tf.layers import fresh, put_weights
from ptycho_tf.model import PtychoModel

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


class TensorFlowBackend:
    """Physics, networks and trainer in TensorFlow; methods as in :class:`ptycho_data.workflows.backend.Backend`."""

    name = "tf"

    def versions(self) -> dict[str, str]:
        """TensorFlow comes in several distributions."""
        names = ("ptycho-tf", *sorted(set(packages_distributions()["tensorflow"])), "keras")
        return {name: version(name) for name in names}

    def device(self, execution: ExecutionConfig, *, training: bool = False) -> str:
        if training:
            from ptycho_tf.replicas import prepare_devices, require_possible

            require_possible(execution)
            prepare_devices(execution)
        return pick_device(execution)

    def fit(
        self, task: workflows.TrainingTask, *, progress: Progress | None = None
    ) -> tuple[PtychoModel, TrainingOutcome]:
        from ptycho_tf.training import fit

        with on_device(task.device):
            model = PtychoModel(task.config, task.probe, make=fresh(task.training.seed, "float32"))
            if task.start is not None:
                put_weights(model.network, task.start.weight_arrays(), NETWORK)
        return model, fit(model, task, progress=progress)

    def infer_canvas(self, model: PtychoModel, task: workflows.CanvasTask) -> list[NDArray[np.complex64]]:
        with on_device(task.device):
            return estimates_on_canvas(model, task)

    def passes_on_canvas(
        self, probe: NDArray[np.complex64], task: workflows.CanvasTask, schedule: PassSchedule
    ) -> NDArray[np.complex64]:
        with on_device(task.device):
            return passes_on_canvas(probe, task, schedule)

    def infer_groups(
        self, model: PtychoModel, groups: GroupBatches, *, batch_size: int, num_workers: int, device: str
    ) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.int64]]]:
        return group_patches(model, groups, batch_size=batch_size, num_workers=num_workers, device=device)

    def joint_fit(
        self, source: PatternSource, sites: Sites, probe: NDArray[np.complex64], *, device: str, **options: Any
    ) -> JointFit:
        with on_device(device):
            return joint_reconstruction(JointParameters, source, sites, probe, **options)

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
        with on_device(device):
            expected = expected_counts(object_, probe, sites, background=background)
            return far_field_residual(expected, source, indices, modes=len(probe))

    def load(self, path: Path | str) -> Bundle:
        return load_bundle(path)

    def save(self, path: Path | str, bundle: Bundle) -> None:
        save_bundle(path, bundle)


BACKEND = TensorFlowBackend()
train = partial(workflows.train, BACKEND)
infer = partial(workflows.infer, BACKEND)
reconstruct = partial(workflows.reconstruct, BACKEND)
evaluate = partial(workflows.evaluate_scan, BACKEND)
load, save = BACKEND.load, BACKEND.save
