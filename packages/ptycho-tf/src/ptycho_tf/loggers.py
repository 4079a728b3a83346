"""Callbacks that log the metrics of each epoch."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem

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
        return [_Mlflow(folder / "mlflow.db")]
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
    """Logs to an MLflow database in a file."""

    def __init__(self, database: Path) -> None:
        super().__init__()
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(f"sqlite:///{database}")
        name = "ptycho"
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self._run = self._client.create_run(experiment).info.run_id

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in logs.items():
            self._client.log_metric(self._run, name, float(value), step=epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self._client.set_terminated(self._run)
