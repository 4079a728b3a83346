"""MLflow as a logger of Lightning's trainer; Lightning's own one changes MLflow's process-wide settings."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from ptycho_data.fitting.mlflow_run import EXPERIMENT, MlflowRun


class MlflowLogger(Logger):
    """Logs in the first of several processes; the run begins with its first metrics."""

    def __init__(self, output_dir: Path) -> None:
        super().__init__()
        self._output_dir, self._run = output_dir, None

    _run: MlflowRun | None

    @property
    def name(self) -> str:
        return EXPERIMENT

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run = self._run or MlflowRun(self._output_dir)
        self._run.log(metrics, step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: all options are in the summary and in the model's file."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.end("FAILED" if status == "failed" else "FINISHED")
