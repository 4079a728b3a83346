"""Several machines that train together: where their processes meet, for how long they wait (TRN-18)."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem, WorkFailedError

WAIT = timedelta(minutes=30)
"""Longest wait for the other processes; each one reads, stores and calibrates before it comes."""

_LOGGER = logging.getLogger(__name__)
_REMEDY = (
    "start the same command on every machine with MASTER_ADDR, MASTER_PORT and its own NODE_RANK, or by torchrun or "
    "SLURM (docs/several-machines.md)"
)


def make_strategy(execution: ExecutionConfig) -> str | Strategy:
    """How several processes share the work, as Lightning's trainer takes it."""
    if execution.num_nodes == 1:
        return execution.strategy
    return AcrossMachines(timeout=WAIT, start_method="spawn" if execution.strategy == "ddp_spawn" else "popen")


class AcrossMachines(DDPStrategy):
    """Lightning's strategy, which says what it waits for, and ends with the reason if that does not come."""

    def setup_distributed(self) -> None:
        """Meet the other processes.

        Raises:
            WorkFailedError: ``processes.absent``, some did not come in time, or the address cannot be reached.
        """
        self.set_world_ranks()
        environment = self.cluster_environment
        assert environment is not None
        address = f"{environment.main_address}:{environment.main_port}"
        waiting = f"{environment.world_size()} processes on {self.num_nodes} machines"
        minutes = f"{WAIT.total_seconds() / 60:g} minutes"
        rank = environment.global_rank()
        # Shown on stderr unless the caller configures logging: a wait in silence looks like a program that hangs.
        _LOGGER.warning("process %d waits at %s for %s, at most %s", rank, address, waiting, minutes)
        try:
            super().setup_distributed()
        except RuntimeError as error:
            expected = f"{waiting} at {address} within {minutes}"
            raise WorkFailedError(
                Problem("execution.num_nodes", "processes.absent", expected, _first_line(error), _REMEDY)
            ) from error


def require_address(strategy: Strategy) -> None:
    """Refuse to train with several machines without an address where they meet; call before processes are started.

    Such a process would wait on its own machine, at a port that no other process knows.

    Raises:
        ContractError: ``processes.address``.
    """
    environment = strategy.cluster_environment if isinstance(strategy, AcrossMachines) else None
    if isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise ContractError(
            Problem(
                "execution.num_nodes",
                "processes.address",
                "the address where the processes of all machines meet (MASTER_ADDR, MASTER_PORT)",
                f"none: this process would wait at {environment.main_address}:{environment.main_port} for ever",
                _REMEDY,
            )
        )


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0]
