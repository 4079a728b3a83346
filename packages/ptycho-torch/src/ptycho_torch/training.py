"""Training of a model on groups, with Lightning as the trainer (specs/training.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_contracts.problems import Problem, WorkFailedError
from ptycho_data.canvas.geometry import group_canvas_shape
from ptycho_data.fitting.collapse import CollapseWatch, is_flat
from torch import Tensor, nn

from ptycho_torch.checkpoints import SafetensorsCheckpoints
from ptycho_torch.loader import GroupDataset, make_loader
from ptycho_torch.model import Losses, PtychoModel, good_pixels
from ptycho_torch.network import build_network
from ptycho_torch.recovery import PATCH_VARIANCE, PatchVariance, Stopper
from ptycho_torch.trainer import framework_state, make_keeper, make_trainer, require_precision

Progress = Callable[[str, int, int], None]

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
        patch_variance: Variance of its estimate across the validation patterns (TRN-14).
        restarts: 0, or 1 where the training collapsed and began anew (TRN-16).
        restart_reason: Why, in words, or None.
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
    patch_variance: float
    restarts: int
    restart_reason: str | None
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
        losses = self._losses(batch, self.mask)
        mean: dict[str, Any] = {"on_epoch": True, "batch_size": len(batch["counts"]), "sync_dist": True}
        self.log("train_loss", losses.last, on_step=False, **mean)
        total = losses.total * self._share(batch)
        if losses.supervised is not None:
            total = total + self._training.supervised_weight * losses.supervised * self._share_of_groups(batch)
        if not torch.isfinite(total):
            raise _diverged(f"a loss of {float(total.detach())}")
        return total

    def on_validation_epoch_start(self) -> None:
        self._variance = PatchVariance(self.model.probe)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        losses = self._losses(batch, self.validation_mask)
        mean: dict[str, Any] = {"on_epoch": True, "batch_size": len(batch["counts"]), "sync_dist": True}
        self.log("val_loss", losses.last, **mean)
        if losses.supervised_last is not None:
            self.log("supervised_error", losses.supervised_last, **mean)
        self._variance.add(losses.patches)

    def on_validation_epoch_end(self) -> None:
        self.log(PATCH_VARIANCE, self._variance.value(), sync_dist=True)

    def _losses(self, batch: dict[str, Tensor], mask: Tensor | None) -> Losses:
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

    def _share_of_groups(self, batch: dict[str, Tensor]) -> Tensor | float:
        """The same for a mean over groups."""
        if self.trainer.world_size == 1:
            return 1.0
        mine = batch["mean_counts"].new_tensor(len(batch["counts"]))
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
        share = self._clock.share(step, self.trainer)
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
        self._stage = "training"
        self.first_step = 0
        self.expired = False

    def steps(self, trainer: pl.Trainer) -> int:
        """Steps of the attempt that is under way."""
        return max(int(trainer.estimated_stepping_batches) - self.first_step, 1)

    def share(self, step: int, trainer: pl.Trainer) -> float:
        """Share of this attempt that is done: of the steps or of the time, whichever is more."""
        return min(1.0, max((step - self.first_step) / self.steps(trainer), self._elapsed))

    def begin_anew(self, step: int, watch: CollapseWatch) -> None:
        """A second attempt, with the time that is left."""
        now = time.monotonic()
        self._max_seconds, self._began = watch.seconds_left(now - self._began), now
        self._elapsed, self._stage, self.first_step, self.expired = 0.0, "training again", step, False

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)
        if self._elapsed >= 1:
            self.expired = trainer.should_stop = True
        if self._progress is not None and trainer.is_global_zero:
            steps = self.steps(trainer)
            self._progress(self._stage, round(self.share(trainer.global_step, trainer) * steps), steps)

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
        progress: Called as ``progress("training", steps done, steps in all)``; in a second attempt (TRN-16) the
            stage is ``"training again"``.

    Raises:
        ContractError: a logger that is not installed, a device that does not exist, or a precision that it lacks.
        WorkFailedError: the loss or the weights stopped being finite.
    """
    require_precision(execution)
    clock = _Clock(training.max_seconds, progress)
    shapes = [
        group_canvas_shape(part.groups.coords_relative, part.source.N, multiple=8)
        for part in (training_groups, validation_groups)
    ]
    module = _Module(
        model,
        training,
        execution,
        canvas_shape=(max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)),
        mask=good_pixels(training_groups.source.bad_pixels),
        clock=clock,
        validation_mask=good_pixels(validation_groups.source.bad_pixels),
    )
    keeper = make_keeper(execution, output_dir)
    watch = CollapseWatch(
        _flat_loss(model, validation_groups, training), epochs=training.epochs, max_seconds=training.max_seconds
    )
    stopper = Stopper(
        execution,
        watch,
        share=lambda trainer: clock.share(trainer.global_step, trainer),
        fresh=lambda: _fresh(model, training),
        restarted=lambda step: clock.begin_anew(step, watch),
    )
    began, cpu = time.monotonic(), time.process_time()
    with framework_state(execution):
        trainer = make_trainer(training, execution, output_dir, [clock, stopper, *([keeper] if keeper else [])])
        workers: dict[str, Any] = {"num_workers": execution.num_workers, "prefetch_factor": execution.prefetch_factor}
        trainer.fit(
            module,
            make_loader(training_groups, batch_size=training.batch_size, shuffle=True, seed=training.seed, **workers),
            make_loader(validation_groups, batch_size=training.batch_size, shuffle=False, **workers),
        )
    device = str(trainer.strategy.root_device)
    figures = stopper.figures
    if keeper is not None and keeper.best_model_path:
        state = SafetensorsCheckpoints().load_checkpoint(keeper.best_model_path)
        module.load_state_dict(state["state_dict"])
        figures = state["callbacks"][stopper.state_key]["figures"]
    # .float() leaves complex buffers alone; .to(torch.float32) would drop their imaginary part.
    module.float().cpu()
    model.eval()
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise _diverged("NaN or infinite weights")
    early = stopper.stopped_epoch > 0
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    figures = figures or losses  # processes that were spawned keep their callbacks to themselves
    steps_an_epoch = math.ceil(trainer.num_training_batches / execution.accum_steps)
    attempts = clock.first_step, trainer.global_step - clock.first_step
    return TrainingOutcome(
        epochs=sum(math.ceil(steps / steps_an_epoch) for steps in attempts),
        steps=trainer.global_step,
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu,
        losses={name: value for name, value in losses.items() if name != PATCH_VARIANCE},
        device=device,
        flat_loss=watch.flat_loss,
        collapsed=is_flat(figures["val_loss"], watch.flat_loss),
        patch_variance=figures[PATCH_VARIANCE],
        restarts=watch.restarts,
        restart_reason=watch.reason,
        stopped_by="max_seconds" if clock.expired else "early stopping" if early else "epochs",
        is_first_rank=trainer.is_global_zero,
    )


def _fresh(model: PtychoModel, training: TrainingConfig) -> nn.Module:
    """The model's network with other weights; a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed + 1)
        return build_network(model.config)


def _flat_loss(model: PtychoModel, groups: GroupDataset, training: TrainingConfig) -> float:
    """Loss of a uniform object on the same groups and by the same means as ``val_loss`` (TRN-14)."""
    mask = good_pixels(groups.source.bad_pixels)
    total = count = 0.0
    for first in range(0, len(groups), training.batch_size):
        batch = groups[np.arange(first, min(first + training.batch_size, len(groups)))]
        total += model.flat_loss(batch, kind=training.loss, mask=mask) * len(batch["counts"])
        count += len(batch["counts"])
    return total / count


def _diverged(found: str) -> WorkFailedError:
    return WorkFailedError(
        Problem(
            "training",
            "training.diverged",
            "a finite loss and finite weights",
            found,
            "lower --learning-rate or check the data with inspect",
        )
    )
