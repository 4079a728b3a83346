"""Time, early stopping, and one restart of a training that collapsed (specs/training.md, TRN-7, TRN-16)."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from ptycho_contracts.config import ExecutionConfig, ModelConfig
from ptycho_data.fitting import PATCH_VARIANCE, Attempts, TrainingInterrupted
from ptycho_data.stages import Progress, tell
from torch import Tensor, nn

from ptycho_torch.network import build_network
from ptycho_torch.physics import squared_modulus


class Clock(Callback):
    """Reports progress and ends the training when its wall time is over, in all processes at the same step.

    Args:
        attempts: The budget.
        progress: Called as ``progress(stage, steps done, steps in all)``.
        keeps_state: Whether there is a checkpoint to continue from: then a signal leaves at once.
    """

    def __init__(self, attempts: Attempts, progress: Progress | None, *, keeps_state: bool = False) -> None:
        self._attempts, self._progress, self._keeps_state = attempts, progress, keeps_state

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._attempts.install()  # Lightning has put its own handlers of signals in their place
        if not self._attempts.resumed:
            self._attempts.steps = max(1, int(trainer.estimated_stepping_batches))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self._look(trainer)
        if trainer.is_global_zero:
            done, loss = trainer.global_step - self._attempts.first_step, pl_module.step_loss
            tell(self._progress, self._attempts.stage, done, self._attempts.steps, loss=loss)
        self._attempts.listen(trainer.strategy.broadcast)
        if self._attempts.interrupted_by and self._keeps_state:
            raise TrainingInterrupted
        if self._attempts.expired:
            trainer.should_stop = True

    def _look(self, trainer: pl.Trainer) -> None:
        """All processes use the clock of the first: learning rates must agree."""
        self._attempts.look(trainer.strategy.broadcast)


class Recovery(EarlyStopping):
    """Lightning's early stopping, which restarts a collapsed training once instead of ending it.

    It is a subclass of early stopping because only those callbacks see the end of an epoch after the decision whether
    training ends there.

    Args:
        execution: Patience, its metric and mode, the learning rate.
        attempts: Decides whether to restart.
        config: Configuration of the model.
        seed: Seed of the weights of a second attempt.

    Attributes:
        figures: ``val_loss`` and ``patch_variance`` of the last epoch.
    """

    def __init__(self, execution: ExecutionConfig, attempts: Attempts, *, config: ModelConfig, seed: int) -> None:
        super().__init__(
            execution.checkpoint_monitor_metric, patience=execution.early_stop_patience, mode=execution.checkpoint_mode
        )
        self.figures: dict[str, float] = {}
        self._attempts, self._config, self._seed = attempts, config, seed
        self._first_rate = execution.learning_rate
        self._best = self.best_score.clone()
        self._due = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.figures = {name: float(trainer.callback_metrics[name]) for name in ("val_loss", PATCH_VARIANCE)}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        done, attempts = trainer.current_epoch + 1, self._attempts
        ending = trainer.should_stop or done >= attempts.last_epoch
        if attempts.collapsed(self.figures["val_loss"], epoch=done, step=trainer.global_step, ending=ending):
            trainer.fit_loop.max_epochs = attempts.last_epoch
            trainer.should_stop = False
            self._due = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart here, not at the decision: by now the epoch's checkpoint is written, with its own weights."""
        if not self._due:
            return
        self._due = False
        done = trainer.global_step
        self._attempts.restart(done, int(trainer.estimated_stepping_batches) - done)
        fresh = fresh_network(self._config, self._seed)
        pl_module.get_submodule("model.network").load_state_dict(fresh.state_dict())
        self.wait_count, self.stopped_epoch, self.best_score = 0, 0, self._best.clone()
        rate = self._attempts.rate * self._first_rate
        for optimiser in trainer.optimizers:
            optimiser.state.clear()
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] = rate
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                schedule.best, schedule.num_bad_epochs, schedule.cooldown_counter = float("inf"), 0, 0
            else:
                schedule.base_lrs = [rate for _ in schedule.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """State with the figures of the checkpoint's weights."""
        return super().state_dict() | {"figures": dict(self.figures)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the state."""
        super().load_state_dict(state_dict)
        self.figures = dict(state_dict["figures"])


def fresh_network(config: ModelConfig, seed: int) -> nn.Module:
    """A network with weights that are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_network(config)


class PatchVariance:
    """Variance of the estimate across patches, in units of empty space's |O|^2 (TRN-14).

    Args:
        probe: (modes, N, N) complex of unit energy: the weights sum up to 1.
    """

    def __init__(self, probe: Tensor) -> None:
        self._weight = squared_modulus(probe).sum(0)
        self._sum: Tensor | None = None
        self._power, self._count = torch.zeros((), device=probe.device), 0

    def add(self, patches: Tensor) -> None:
        """Add patches, (M, N, N) complex."""
        total = patches.sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._power = self._power + (squared_modulus(patches) * self._weight).sum()
        self._count += len(patches)

    def value(self) -> Tensor:
        """``sum w (mean_m |O_m|^2 - |mean O|^2)``, 0 for identical patches."""
        if self._sum is None:
            return self._power
        mean = squared_modulus(self._sum / self._count)
        return (self._power / self._count - (mean * self._weight).sum()).clamp_min(0)
