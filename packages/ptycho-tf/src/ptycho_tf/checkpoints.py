"""Weights of the best epochs of a training, as safetensors (specs/bundle.md, CKP)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import atomic_write, make_folder
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ptycho_tf.framework import keras

Weights = dict[str, NDArray[Any]]


class Checkpoints(keras.callbacks.Callback):
    """Keeps the weights of the epochs with the best value of a metric.

    Args:
        execution: ``checkpoint_monitor_metric``, ``checkpoint_mode`` and ``checkpoint_save_top_k`` (-1 keeps all).
        folder: Takes ``epoch=0000-val_loss=0.012345.safetensors``.
    """

    def __init__(self, execution: ExecutionConfig, folder: Path) -> None:
        super().__init__()
        self._metric, self._count = execution.checkpoint_monitor_metric, execution.checkpoint_save_top_k
        self._sign = 1 if execution.checkpoint_mode == "min" else -1
        self._folder = folder
        self._kept: list[tuple[float, int, Path]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        value = float(logs[self._metric])
        rank = (self._sign * value, epoch, self._folder / f"epoch={epoch:04d}-{self._metric}={value:.6f}.safetensors")
        best = sorted([*self._kept, rank])
        if self._count >= 0:
            best = best[: self._count]
        if rank in best:
            weights = {name: variable.numpy() for name, variable in self.model.named_weights.items()}
            _write(rank[2], {name: np.ascontiguousarray(array) for name, array in weights.items()})
        for _, _, path in set(self._kept) - set(best):
            path.unlink(missing_ok=True)
        self._kept = best

    def state(self) -> list[tuple[float, int, str]]:
        """JSON values that :meth:`restore` takes."""
        return [(value, epoch, path.name) for value, epoch, path in self._kept]

    def restore(self, state: Iterable[tuple[float, int, str]], best: Weights) -> None:
        """Continue from a state.

        Args:
            state: From :meth:`state`.
            best: Weights of the best epoch; they are written again if a later training has removed them.
        """
        self._kept = [(float(value), int(epoch), self._folder / name) for value, epoch, name in state]
        if self._kept and not self._kept[0][2].exists():
            _write(self._kept[0][2], best)

    @property
    def best_epoch(self) -> int | None:
        """Number of the best epoch; None if none was kept."""
        return self._kept[0][1] if self._kept else None

    def best(self) -> Weights | None:
        """Weights of the best epoch; None if none was kept.

        Raises:
            ContractError: a file that was changed since.
        """
        if not self._kept:
            return None
        path = self._kept[0][2]
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ContractError(
                Problem(
                    str(path),
                    "checkpoint.broken",
                    "the weights that were saved there",
                    " ".join(str(error).split()),
                    "train again",
                )
            ) from error


def _write(path: Path, weights: Weights) -> None:
    make_folder(path.parent)
    with atomic_write(path) as temporary:
        save_file(weights, temporary, metadata={"format": "ptycho-checkpoint"})
