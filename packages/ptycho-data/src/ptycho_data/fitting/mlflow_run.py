"""A training in MLflow: metrics as files below the output folder, which ``mlflow-skinny`` alone can write (TRN-8)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EXPERIMENT = "ptycho"
_OPT_IN = "MLFLOW_ALLOW_FILE_STORE"
"""MLflow 3 opens a store of files only if this is set; databases need packages that ``mlflow-skinny`` lacks."""


class MlflowRun:
    """One run of the experiment ``ptycho``; MLflow's process-wide settings stay as they are."""

    def __init__(self, output_dir: Path) -> None:
        from mlflow.tracking import MlflowClient

        with mlflow_files(output_dir) as uri:
            self._client = MlflowClient(uri)
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = self._client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
        self._run_id = self._client.create_run(experiment).info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics of a step, or of an epoch."""
        for name, value in metrics.items():
            self._client.log_metric(self._run_id, name, float(value), step=step)

    def end(self, status: str = "FINISHED") -> None:
        """Close the run.

        Args:
            status: FINISHED or FAILED.
        """
        self._client.set_terminated(self._run_id, status)


@contextmanager
def mlflow_files(output_dir: Path) -> Iterator[str]:
    """URI of ``output_dir/logs/mlflow``, in a block in which MLflow opens it; a store that is open stays open.

    >>> with mlflow_files(Path("/out of/a#b")) as uri:
    ...     print(uri)
    file:///out%20of/a%23b/logs/mlflow
    """
    before = os.environ.get(_OPT_IN)
    os.environ[_OPT_IN] = "true"
    try:
        yield (output_dir / "logs" / "mlflow").resolve().as_uri()
    finally:
        if before is None:
            del os.environ[_OPT_IN]
        else:
            os.environ[_OPT_IN] = before
