"""Training of a model on groups, with Lightning as the trainer (specs/training.md)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import ContractError, Problem, WorkFailedError
from ptycho_data.geometry import group_canvas_shape
from torch import Tensor

from ptycho_torch.checkpoints import SafetensorsCheckpoints
from ptycho_torch.devices import pick_device
from ptycho_torch.loader import GroupDataset, make_loader
from ptycho_torch.model import PtychoModel, good_pixels

Progress = Callable[[str, int, int], None]

COLLAPSE_SHARE = 0.98
"""A val_loss above this share of a flat object's is a network that has learned nothing."""

_LAST_RATE = 0.02
_WEIGHT_DECAY = 1e-3
_EXPONENTIAL_DECADES = 1.7


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training came to.

    Attributes:
        epochs: Passes begun.
        steps: Steps of the optimiser.
        seconds, cpu_seconds: Wall time and this process' CPU time.
        losses: Last value of each logged metric.
        device: Where the model was trained.
        stopped_by: ``"epochs"``, ``"max_seconds"`` or ``"early stopping"``.
        flat_loss: Loss of a flat object on the validation groups.
        collapsed: Whether the trained network explains the validation groups no better than a flat object.
        is_first_rank: Whether this process is the one that writes results.
    """

    epochs: int
    steps: int
    seconds: float
    cpu_seconds: float
    losses: Mapping[str, float]
    device: str
    stopped_by: str
    flat_loss: float
    collapsed: bool
    is_first_rank: bool


class _Module(pl.LightningModule):
    """The model with its loss, optimiser and schedule, as Lightning wants them."""

    mask: Tensor | None
    validation_mask: Tensor | None

    def __init__(
        self,
        model: PtychoModel,
        training: TrainingConfig,
        execution: ExecutionConfig,
        *,
        canvas_shape: tuple[int, int],
        mask: Tensor | None,
        clock: _Clock,
        validation_mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._training, self._execution = training, execution
        self._canvas_shape = canvas_shape
        self._clock = clock
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("validation_mask", validation_mask, persistent=False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        total, last = self._losses(batch, self.mask)
        self.log("train_loss", last, on_step=False, on_epoch=True, batch_size=len(batch["counts"]), sync_dist=True)
        if not torch.isfinite(total):
            raise _diverged(f"a loss of {float(total.detach())}")
        return total * self._share(batch)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        last = self._losses(batch, self.validation_mask)[1]
        self.log("val_loss", last, on_epoch=True, batch_size=len(batch["counts"]), sync_dist=True)

    def _losses(self, batch: dict[str, Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.model.loss(batch, canvas_shape=self._canvas_shape, kind=self._training.loss, mask=mask)

    def _share(self, batch: dict[str, Tensor]) -> Tensor | float:
        """Weight of this process' loss, so that the mean over processes is the loss of their batches as one."""
        if self.trainer.world_size == 1:
            return 1.0
        light = batch["counts"] / batch["mean_counts"][:, None, None, None]
        mine = (light if self.mask is None else light * torch.fft.fftshift(self.mask)).sum()
        everyone = self.trainer.strategy.reduce(mine.clone(), reduce_op="sum")
        share: Tensor = mine * self.trainer.world_size / everyone
        return share

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.model.network.parameters(), lr=self._execution.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        if self._execution.scheduler == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=3)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Learning rate beside its start, by the share of the training that is done."""
        share = self._clock.share(step, int(self.trainer.estimated_stepping_batches))
        if self._execution.scheduler == "cosine":
            return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        if self._execution.scheduler == "exponential":
            return float(10 ** (-_EXPONENTIAL_DECADES * share))
        return 1.0


class _Clock(Callback):
    """Reports progress and ends the training when its wall time is over, in all processes at the same step."""

    def __init__(self, max_seconds: float | None, progress: Progress | None) -> None:
        self._max_seconds, self._progress = max_seconds, progress
        self._began = time.monotonic()
        self._elapsed = 0.0
        self.expired = False

    def share(self, step: int, steps: int) -> float:
        """Share of the training that is done: of the steps or of the time, whichever is more."""
        return min(1.0, max(step / max(steps, 1), self._elapsed))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        steps = int(trainer.estimated_stepping_batches)
        self._look(trainer)
        if self._elapsed >= 1:
            self.expired = trainer.should_stop = True
        if self._progress is not None and trainer.is_global_zero:
            share = self.share(trainer.global_step, steps)
            self._progress("training", round(share * steps), steps)

    def _look(self, trainer: pl.Trainer) -> None:
        """The first process' clock counts for all: learning rates must agree."""
        if self._max_seconds is not None:
            elapsed = (time.monotonic() - self._began) / self._max_seconds
            self._elapsed = trainer.strategy.broadcast(elapsed)


def fit(
    model: PtychoModel,
    training_groups: GroupDataset,
    validation_groups: GroupDataset,
    *,
    training: TrainingConfig,
    execution: ExecutionConfig,
    output_dir: Path,
    progress: Progress | None = None,
) -> TrainingOutcome:
    """Train a model in place; afterwards it holds the weights of the best checkpoint, or the last ones.

    Args:
        model: Trained in place and left in evaluation mode on the CPU.
        training_groups, validation_groups: Disjoint groups.
        training: What to fit and for how long.
        execution: Device, precision, schedule, checkpoints, logger.
        output_dir: Takes ``checkpoints/`` and ``logs/``.
        progress: Called as ``progress("training", steps done, steps in all)``.

    Raises:
        ContractError: a logger that is not installed, a device that does not exist, or a precision that it lacks.
        WorkFailedError: the loss or the weights stopped being finite.
    """
    _require_precision(execution)
    clock = _Clock(training.max_seconds, progress)
    shapes = [group_canvas_shape(part.groups.coords_relative, part.source.N, multiple=8)
              for part in (training_groups, validation_groups)]  # fmt: skip
    module = _Module(
        model, training, execution,
        canvas_shape=(max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)),
        mask=good_pixels(training_groups.source.bad_pixels), clock=clock,
        validation_mask=good_pixels(validation_groups.source.bad_pixels),
    )  # fmt: skip
    keeper = _keeper(execution, output_dir)
    stopper = EarlyStopping(
        execution.checkpoint_monitor_metric, patience=execution.early_stop_patience, mode=execution.checkpoint_mode
    )
    began, cpu = time.monotonic(), time.process_time()
    with _framework_state(execution):
        trainer = _trainer(training, execution, output_dir, [clock, stopper, *([keeper] if keeper else [])])
        workers: dict[str, Any] = {"num_workers": execution.num_workers, "prefetch_factor": execution.prefetch_factor}
        trainer.fit(
            module,
            make_loader(training_groups, batch_size=training.batch_size, shuffle=True, seed=training.seed, **workers),
            make_loader(validation_groups, batch_size=training.batch_size, shuffle=False, **workers),
        )
    device = str(trainer.strategy.root_device)
    if keeper is not None and keeper.best_model_path:
        state = SafetensorsCheckpoints().load_checkpoint(keeper.best_model_path)["state_dict"]
        module.load_state_dict(state)
    # .float() leaves complex buffers alone; .to(torch.float32) would drop their imaginary part.
    module.float().cpu()
    model.eval()
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise _diverged("NaN or infinite weights")
    early = stopper.stopped_epoch > 0
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    flat = _flat_loss(model, validation_groups, training)
    return TrainingOutcome(
        epochs=math.ceil(trainer.global_step / math.ceil(trainer.num_training_batches / execution.accum_steps)),
        steps=trainer.global_step,
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu,
        losses=losses,
        device=device,
        flat_loss=flat,
        collapsed=not losses.get("val_loss", flat) < COLLAPSE_SHARE * flat,
        stopped_by="max_seconds" if clock.expired else "early stopping" if early else "epochs",
        is_first_rank=trainer.is_global_zero,
    )


def _flat_loss(model: PtychoModel, groups: GroupDataset, training: TrainingConfig) -> float:
    """Loss of empty space on the same groups and by the same means as ``val_loss``."""
    mask = good_pixels(groups.source.bad_pixels)
    total = count = 0.0
    for first in range(0, len(groups), training.batch_size):
        batch = groups[np.arange(first, min(first + training.batch_size, len(groups)))]
        total += model.flat_loss(batch, kind=training.loss, mask=mask) * len(batch["counts"])
        count += len(batch["counts"])
    return total / count


def _diverged(found: str) -> WorkFailedError:
    return WorkFailedError(
        Problem("training", "training.diverged", "a finite loss and finite weights", found,
                "lower --learning-rate or check the data with inspect")
    )  # fmt: skip


def _require_precision(execution: ExecutionConfig) -> None:
    """Lightning would take another precision in silence, or fail inside a step."""
    lacks = {"cpu": "16-mixed", "mps": "64-true"}
    device = pick_device(execution).type
    if lacks.get(device) == execution.precision:
        raise ContractError(
            Problem("execution.precision", "precision.absent", f"a precision that {device} computes in",
                    repr(execution.precision), "use --precision bf16-mixed or 32-true")
        )  # fmt: skip


def _trainer(
    training: TrainingConfig, execution: ExecutionConfig, output_dir: Path, callbacks: list[Callback]
) -> pl.Trainer:
    return pl.Trainer(
        accelerator=execution.accelerator,
        devices=execution.devices,
        num_nodes=execution.num_nodes,
        strategy=execution.strategy,
        deterministic=execution.deterministic,
        precision=execution.precision,  # type: ignore[arg-type]
        gradient_clip_val=execution.gradient_clip_val,
        accumulate_grad_batches=execution.accum_steps,
        max_epochs=training.epochs,
        callbacks=callbacks,
        logger=_logger(execution, output_dir),
        plugins=[SafetensorsCheckpoints()],
        use_distributed_sampler=False,
        enable_checkpointing=execution.enable_checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=output_dir,
    )


def _keeper(execution: ExecutionConfig, output_dir: Path) -> ModelCheckpoint | None:
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
            from lightning.pytorch.loggers import MLFlowLogger

            return MLFlowLogger(tracking_uri=f"sqlite:///{output_dir / 'logs' / 'mlflow.db'}")
    except ModuleNotFoundError as error:
        raise ContractError(
            Problem("execution.logger_backend", "logger.absent", f"the package of the logger '{kind}'",
                    str(error).splitlines()[0], f"pip install 'ptycho-torch[{kind}]' or use --logger csv")
        ) from error  # fmt: skip
    return CSVLogger(output_dir, name="logs")


@contextmanager
def _framework_state(execution: ExecutionConfig) -> Iterator[None]:
    """Keeps Lightning's remarks off the user's screen, and puts torch's process-wide switches back."""
    import logging

    deterministic = torch.are_deterministic_algorithms_enabled()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Remarks on hardware and worker counts that the user chose, or on Lightning's own internals.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
