"""Which device does the work."""

from __future__ import annotations

from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem

from ptycho_tf.framework import tf


def pick_device(config: ExecutionConfig) -> str:
    """The device that ``accelerator`` names, ``"cpu"`` or ``"gpu"``; ``auto`` takes a GPU if there is one.

    Raises:
        ContractError: the requested device does not exist here.
    """
    present = {"gpu": bool(tf.config.list_physical_devices("GPU")), "cpu": True}
    if config.accelerator == "auto":
        return next(name for name, here in present.items() if here)
    name = "gpu" if config.accelerator == "cuda" else config.accelerator
    if not present.get(name, False):
        raise ContractError(
            Problem(
                "execution.accelerator",
                "device.absent",
                "a device of this machine: " + ", ".join(known for known, here in present.items() if here),
                repr(config.accelerator),
                "use `accelerator=auto` or `accelerator=cpu`",
            )
        )
    return name


def on_device(name: str) -> tf.device:
    """A with-block whose work is done on a device of :func:`pick_device`."""
    return tf.device(f"/{name.upper()}:0")
