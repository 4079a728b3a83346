"""Several devices that train one model together (specs/training.md, TRN-10), by ``tf.distribute``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem

from ptycho_tf.devices import on_device, pick_device
from ptycho_tf.framework import tf
from ptycho_tf.physics import Tensor


def require_possible(execution: ExecutionConfig) -> None:
    """Refuse, all at once, execution options that this backend cannot follow, with the reason.

    Raises:
        ContractError: several machines, strategies of another framework, or accumulated gradients on several devices.
    """
    reasons: dict[str, tuple[bool, object, str]] = {
        "num_nodes": (execution.num_nodes > 1, 1, "Keras' fit cannot combine the figures of several machines"),
        "strategy": (
            execution.strategy != "auto",
            "auto",
            "PyTorch's strategies have no meaning in TensorFlow, which mirrors the model on its devices",
        ),
        "accum_steps": (
            execution.devices > 1 and execution.accum_steps > 1,
            1,
            "Keras accumulates no gradients on several devices",
        ),
    }
    problems = [
        Problem(
            f"execution.{name}",
            "execution.impossible",
            f"{only!r}: {reason}",
            repr(getattr(execution, name)),
            f"use {only!r}, or `backend=torch`",
        )
        for name, (asked, only, reason) in reasons.items()
        if asked
    ]
    if problems:
        raise ContractError(problems)


def prepare_devices(execution: ExecutionConfig) -> None:
    """Make sure that there are enough devices; call before TensorFlow's first operation.

    A CPU is split into the requested number of devices, for the rest of the process.

    Raises:
        ContractError: fewer GPUs than requested, or TensorFlow is already initialised with fewer CPU devices.
    """
    kind, count = pick_device(execution).upper(), execution.devices
    if count == 1:
        return
    if kind == "CPU":
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        with suppress(RuntimeError):  # already initialised: use the existing devices
            tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    present = len(tf.config.list_logical_devices(kind))
    if present < count:
        raise ContractError(
            Problem(
                "execution.devices",
                "device.absent",
                f"at most {present}, the {kind} devices of this process",
                str(count),
                f"use `devices={present}`",
            )
        )


class Replicas:
    """The devices that train together, as one or as several.

    Args:
        device: From :func:`ptycho_tf.devices.pick_device`.
        count: Number of devices.
    """

    def __init__(self, device: str, count: int) -> None:
        self._device, self.count = device, count
        names = [f"/{device.upper()}:{number}" for number in range(count)]
        self._strategy = tf.distribute.MirroredStrategy(names) if count > 1 else None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A with-block whose variables are on all devices."""
        with on_device(self._device) if self._strategy is None else self._strategy.scope():
            yield

    def fitting(
        self, training: tf.data.Dataset, validation: tf.data.Dataset, *, steps: tuple[int, int]
    ) -> dict[str, Any]:
        """Arguments of Keras' fit for its data.

        Args:
            training, validation: Datasets of the devices' batches, one after the other.
            steps: Steps per pass of each.
        """
        if self._strategy is None:
            return {"x": training, "validation_data": validation}
        distributed = [
            self._strategy.distribute_datasets_from_function(lambda _, data=data: data)
            for data in (training, validation)
        ]
        # Keras would count batches, not steps; so the datasets repeat without end, and the steps are given.
        return {
            "x": distributed[0],
            "validation_data": distributed[1],
            "steps_per_epoch": steps[0],
            "validation_steps": steps[1],
        }


def deal(rows: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Rows of a step's batch for each of ``count`` devices; each has at least one row."""
    if count == 1:
        return [rows]
    parts = [rows[number::count] for number in range(count)]
    return [part if len(part) else rows[number % len(rows)][None] for number, part in enumerate(parts)]


def replica_count() -> int:
    """Number of devices that work on the present step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def summed(values: Sequence[Tensor]) -> list[Tensor]:
    """Each value, summed over all devices that work on the present step."""
    if replica_count() == 1:
        return list(values)
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(values)))


def fraction_of(weight: Tensor, dtype: Any) -> Tensor | float:
    """This device's fraction of the weight of all devices."""
    return 1.0 if replica_count() == 1 else tf.cast(weight / summed([weight])[0], dtype)


def merged(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the devices' parts of a loss, for an optimiser of Keras: it adds up those of all devices,
    but only after it has clipped each."""
    count = replica_count()
    return list(gradients) if count == 1 else [gradient / count for gradient in summed(gradients)]
