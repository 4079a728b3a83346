"""Which device does the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem


def pick_device(config: ExecutionConfig) -> torch.device:
    """The device that ``accelerator`` names; ``auto`` takes a GPU if there is one.

    Raises:
        ContractError: the requested device does not exist here.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.accelerator == "auto":
        return torch.device(next(name for name, here in present.items() if here))
    name = "cuda" if config.accelerator == "gpu" and not present["mps"] else config.accelerator
    name = "mps" if name == "gpu" else name
    if not present[name]:
        raise ContractError(
            Problem(
                "execution.accelerator",
                "device.absent",
                "a device of this machine: " + ", ".join(known for known, here in present.items() if here),
                repr(config.accelerator),
                "use `accelerator=auto` or `accelerator=cpu`",
            )
        )
    return torch.device(name)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with that many CPU threads.

    Joint reconstruction and inference work on minibatches that fit in a core's cache. In measurements a second CPU
    thread cost more CPU time than it saved, and on a busy machine more wall time too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
