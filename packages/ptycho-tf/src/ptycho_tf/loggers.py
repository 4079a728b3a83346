"""Callbacks that log the metrics of each epoch."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.fitting.mlflow_run import MlflowRun

from ptycho_tf.framework import keras


def loggers(kind: str, output_dir: Path) -> list[Any]:
    """The callbacks of a logger: csv, tensorboard, mlflow or none; they write into ``output_dir/logs``.

    Raises:
        ContractError: the logger's package is not installed.
    """
    if kind == "none":
        return []
    folder = output_dir / "logs"
    if kind != "csv" and find_spec(kind) is None:
        raise ContractError(
            Problem(
                "execution.logger_backend",
                "logger.absent",
                f"the package of the logger '{kind}'",
                f"no module named {kind!r}",
                f"pip install 'ptycho-tf[{kind}]' or use `logger_backend=csv`",
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "tensorboard":
        return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]
    if kind == "mlflow":
        return [_Mlflow(output_dir)]
    return [_Csv(folder / "metrics.csv")]


class _Csv(keras.callbacks.Callback):
    """One row per epoch. Keras' own logger leaves its file open if a training fails."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._path.write_text("")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {"epoch": epoch, **{name: float(value) for name, value in sorted(logs.items())}}
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, values)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(values)


class _Mlflow(keras.callbacks.Callback):
    """Logs to MLflow's files."""

    def __init__(self, output_dir: Path) -> None:
        super().__init__()
        self._run = MlflowRun(output_dir)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._run.log(logs, epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self._run.end()
