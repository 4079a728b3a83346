"""Lightning's trainer, checkpoints and logger, made from the options (specs/training.md TRN-8)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.fitting import TrainingCheckpoints

from ptycho_torch.checkpoints import SafetensorsCheckpoints
from ptycho_torch.devices import pick_device
from ptycho_torch.machines import make_strategy
from ptycho_torch.mlflow_logger import MlflowLogger


def require_precision(execution: ExecutionConfig) -> None:
    """Lightning would silently take another precision, or fail inside a step."""
    lacks = {"cpu": "16-mixed", "mps": "64-true"}
    device = pick_device(execution).type
    if lacks.get(device) == execution.precision:
        raise ContractError(
            Problem(
                "execution.precision",
                "precision.absent",
                f"a precision that {device} computes in",
                repr(execution.precision),
                "use `precision=bf16-mixed` or `precision=32-true`",
            )
        )


def make_trainer(
    training: TrainingConfig,
    execution: ExecutionConfig,
    output_dir: Path,
    callbacks: list[Callback],
    checkpoints: TrainingCheckpoints | None = None,
) -> pl.Trainer:
    """Lightning's trainer, made from the options."""
    return pl.Trainer(
        accelerator=execution.accelerator,
        devices=execution.devices,
        num_nodes=execution.num_nodes,
        strategy=make_strategy(execution),
        deterministic=execution.deterministic,
        precision=execution.precision,  # type: ignore[arg-type]
        gradient_clip_val=execution.gradient_clip_val,
        accumulate_grad_batches=execution.accum_steps,
        max_epochs=training.epochs,
        callbacks=callbacks,
        logger=_logger(execution, output_dir),
        plugins=[SafetensorsCheckpoints(checkpoints)],
        use_distributed_sampler=False,
        enable_checkpointing=execution.enable_checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=output_dir,
    )


def make_keeper(execution: ExecutionConfig, output_dir: Path) -> ModelCheckpoint | None:
    """Keeps the best checkpoints; None without checkpoints."""
    if not execution.enable_checkpointing:
        return None
    metric = execution.checkpoint_monitor_metric
    return ModelCheckpoint(
        dirpath=output_dir / "checkpoints",
        filename=f"{{epoch:04d}}-{{{metric}:.6f}}",
        monitor=metric,
        mode=execution.checkpoint_mode,
        save_top_k=execution.checkpoint_save_top_k,
        enable_version_counter=False,
    )


def _logger(execution: ExecutionConfig, output_dir: Path) -> Logger | bool:
    kind = execution.logger_backend
    if kind == "none":
        return False
    try:
        if kind == "tensorboard":
            return TensorBoardLogger(output_dir, name="logs")
        if kind == "mlflow":
            if find_spec("mlflow") is None:
                raise ModuleNotFoundError("no module named 'mlflow'")
            return MlflowLogger(output_dir)
    except ModuleNotFoundError as error:
        raise ContractError(
            Problem(
                "execution.logger_backend",
                "logger.absent",
                f"the package of the logger '{kind}'",
                str(error).splitlines()[0],
                f"pip install 'ptycho-torch[{kind}]' or use `logger_backend=csv`",
            )
        ) from error
    return CSVLogger(output_dir, name="logs")


@contextmanager
def framework_state(execution: ExecutionConfig) -> Iterator[None]:
    """Hides Lightning's messages, and restores the process-wide switches of torch and Lightning."""
    import logging

    deterministic = torch.are_deterministic_algorithms_enabled()
    first_rank: Any = rank_zero_only  # a function with an attribute
    rank = first_rank.rank
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Messages about hardware and worker counts that the user chose, or about Lightning's internals.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        first_rank.rank = rank
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
