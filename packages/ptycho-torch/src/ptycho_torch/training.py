"""Training of a model on groups, with Lightning as the trainer (specs/training.md)."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from ptycho_contracts.config import ExecutionConfig, TrainingConfig
from ptycho_data.batches import common_canvas_shape
from ptycho_data.fitting import (
    PATCH_VARIANCE,
    WEIGHT_DECAY,
    Attempts,
    TrainingOutcome,
    rate_factor,
    training_diverged,
    training_outcome,
)
from ptycho_data.stages import Progress
from ptycho_data.workflows import TrainingTask
from torch import Tensor

from ptycho_torch.checkpoints import SafetensorsCheckpoints
from ptycho_torch.loader import GroupDataset, make_loader, tensors
from ptycho_torch.machines import require_address
from ptycho_torch.model import Losses, PtychoModel
from ptycho_torch.physics import good_pixels
from ptycho_torch.recovery import Clock, PatchVariance, Recovery
from ptycho_torch.resuming import Saver
from ptycho_torch.trainer import framework_state, make_keeper, make_trainer, require_precision


class _Module(pl.LightningModule):
    """The model with its loss, optimiser and schedule, as Lightning expects them."""

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
        attempts: Attempts,
        validation_mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._training, self._execution = training, execution
        self._canvas_shape, self._attempts = canvas_shape, attempts
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("validation_mask", validation_mask, persistent=False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        losses = self._losses(batch, self.mask)
        mean: dict[str, Any] = {"on_epoch": True, "batch_size": len(batch["counts"]), "sync_dist": True}
        self.step_loss = losses.last.detach()
        self.log("train_loss", losses.last, on_step=False, **mean)
        total = losses.total * self._weight(self._light(batch))
        if losses.supervised is not None:
            groups = batch["mean_counts"].new_tensor(len(batch["counts"]))
            total = total + self._training.supervised_weight * losses.supervised * self._weight(groups)
        if not torch.isfinite(total):
            raise training_diverged(f"a loss of {float(total.detach())}")
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

    def _light(self, batch: dict[str, Tensor]) -> Tensor:
        """Divisor of the batch's loss: its counts on good pixels, in units of the mean counts."""
        light = batch["counts"] / batch["mean_counts"][:, None, None, None]
        return (light if self.mask is None else light * torch.fft.fftshift(self.mask)).sum()

    def _weight(self, mine: Tensor) -> Tensor | float:
        """Weight of this process' loss, so that the mean over processes is the loss of their batches as one.

        Args:
            mine: Divisor of this process' loss.
        """
        if self.trainer.world_size == 1:
            return 1.0
        everyone = self.trainer.strategy.reduce(mine.clone(), reduce_op="sum")
        weight: Tensor = mine * self.trainer.world_size / everyone
        return weight

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.model.network.parameters(), lr=self._execution.learning_rate, weight_decay=WEIGHT_DECAY
        )
        if self._execution.scheduler == "plateau":
            # Any lower loss counts, and rates of any size are halved: by default PyTorch halves none below 2e-8.
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, factor=0.5, patience=3, threshold=0.0, eps=0.0
            )
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Learning rate in units of the attempt's first one."""
        return rate_factor(self._execution.scheduler, self._attempts.fraction(step))


def fit(model: PtychoModel, task: TrainingTask, *, progress: Progress | None = None) -> TrainingOutcome:
    """Train a model in place; afterwards it holds the weights of the best checkpoint, or the last ones.

    Args:
        model: Trained in place and left in evaluation mode on the CPU.
        task: Groups, options, output folder; its ``config``, ``probe`` and ``start`` have made the model.
        progress: Called as ``progress("training", steps done, steps in all)``; in a second attempt (TRN-16) the
            stage is ``"training again"``.

    Raises:
        ContractError: a logger that is not installed, a device that does not exist, a precision that it lacks, or
            several machines without an address where they meet.
        WorkFailedError: the loss or the weights stopped being finite, or processes of other machines did not come.
        TrainingInterrupted: a signal came, and there is a checkpoint to continue from.
    """
    training, execution = task.training, task.execution
    require_precision(execution)
    masks = [good_pixels(part.source.bad_pixels) for part in (task.groups, task.validation)]
    uniform_loss = task.validation.mean(
        training.batch_size, lambda batch: model.uniform_loss(tensors(batch), kind=training.loss, mask=masks[1])
    )
    # The trainer knows the number of steps when it has its loader: see Clock.
    attempts = Attempts(
        uniform_loss=uniform_loss,
        epochs=training.epochs,
        max_seconds=task.deadline.max_seconds(),
        steps=1,
        signals=task.signals,
    )
    module = _Module(
        model,
        training,
        execution,
        canvas_shape=common_canvas_shape(task.groups, task.validation),
        mask=masks[0],
        attempts=attempts,
        validation_mask=masks[1],
    )
    keeper = make_keeper(execution, task.output_dir)
    recovery = Recovery(execution, attempts, config=model.config, seed=training.seed + 1)
    saver = Saver(task.checkpoints, attempts, keeper) if task.checkpoints and keeper else None
    callbacks = [Clock(attempts, progress, keeps_state=saver is not None), recovery]
    callbacks += [callback for callback in (saver, keeper) if callback is not None]
    with framework_state(execution):
        trainer = make_trainer(training, execution, task.output_dir, callbacks, task.checkpoints)
        require_address(trainer.strategy)
        loading: dict[str, Any] = {
            "batch_size": training.batch_size,
            "num_workers": execution.num_workers,
            "prefetch_factor": execution.prefetch_factor,
        }
        trainer.fit(
            module,
            make_loader(GroupDataset.of(task.groups), shuffle=True, seed=training.seed, **loading),
            make_loader(GroupDataset.of(task.validation), shuffle=False, **loading),
            ckpt_path=saver.resumes_from if saver else None,
        )
    kept = recovery.figures
    if keeper is not None and keeper.best_model_path:
        state = SafetensorsCheckpoints().load_checkpoint(keeper.best_model_path)
        module.load_state_dict(state["state_dict"])
        kept = state["callbacks"][recovery.state_key]["figures"]
    # .float() does not change complex buffers; .to(torch.float32) would drop their imaginary part.
    device = str(trainer.strategy.root_device)
    module.float().cpu()
    model.eval()
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise training_diverged("NaN or infinite weights")
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    steps_per_epoch = math.ceil(trainer.num_training_batches / execution.accum_steps)
    of_attempts = attempts.first_step, trainer.global_step - attempts.first_step
    return training_outcome(
        attempts,
        epochs=sum(math.ceil(steps / steps_per_epoch) for steps in of_attempts),
        steps=trainer.global_step,
        losses=losses,
        kept=kept or losses,  # spawned processes do not return their callbacks
        device=device,
        stopped_early=recovery.stopped_epoch > 0,
        is_first_rank=trainer.is_global_zero,
    )
