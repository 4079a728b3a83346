"""Early stopping, and one restart of a training that collapsed (specs/training.md, TRN-7, TRN-16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from ptycho_contracts.config import ExecutionConfig
from ptycho_data.fitting.collapse import SLOWER, CollapseWatch
from torch import Tensor, nn

from ptycho_torch.physics import squared_modulus

PATCH_VARIANCE = "patch_variance"


class Stopper(EarlyStopping):
    """Lightning's early stopping, which once begins a collapsed training anew instead of ending it.

    It is a kind of early stopping because only these, of all callbacks, see the end of an epoch after it has been
    decided whether training ends there.

    Args:
        execution: Patience, its metric and mode, the learning rate.
        watch: Decides.
        share: Gives the share of the budget that is used.
        fresh: Makes a network with fresh weights.
        restarted: Called when training begins anew, with the number of steps done.
    """

    def __init__(
        self,
        execution: ExecutionConfig,
        watch: CollapseWatch,
        *,
        share: Callable[[pl.Trainer], float],
        fresh: Callable[[], nn.Module],
        restarted: Callable[[int], None],
    ) -> None:
        super().__init__(
            execution.checkpoint_monitor_metric, patience=execution.early_stop_patience, mode=execution.checkpoint_mode
        )
        self.watch = watch
        self.figures: dict[str, float] = {}
        self._slower = SLOWER * execution.learning_rate
        self._share, self._fresh, self._restarted = share, fresh, restarted
        self._best = self.best_score.clone()
        self._due = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        names = ("val_loss", PATCH_VARIANCE)
        self.figures = {name: float(trainer.callback_metrics[name]) for name in names}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        done, limit = trainer.current_epoch + 1, trainer.fit_loop.max_epochs or 0
        ending = trainer.should_stop or done >= limit
        share = self._share(trainer)
        if self.watch.collapsed(self.figures["val_loss"], epoch=done, share=share, ending=ending):
            trainer.fit_loop.max_epochs = done + self.watch.epochs_left(done)
            trainer.should_stop = False
            self._due = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Here, and not when it was decided: by now the epoch's checkpoint is written, with its own weights."""
        if not self._due:
            return
        self._due = False
        self._restarted(trainer.global_step)
        network: nn.Module = pl_module.get_submodule("model.network")
        network.load_state_dict(self._fresh().state_dict())
        self.wait_count, self.stopped_epoch, self.best_score = 0, 0, self._best.clone()
        for optimiser in trainer.optimizers:
            optimiser.state.clear()
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] = self._slower
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                schedule.best, schedule.num_bad_epochs, schedule.cooldown_counter = float("inf"), 0, 0
            else:
                schedule.base_lrs = [self._slower for _ in schedule.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """With the figures of the weights that the checkpoint holds."""
        return super().state_dict() | {"figures": dict(self.figures)}


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
        """Some more patches, (M, N, N) complex."""
        total = patches.sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._power = self._power + (squared_modulus(patches) * self._weight).sum()
        self._count += len(patches)

    def value(self) -> Tensor:
        """``sum w (mean_m |O_m|^2 - |mean O|^2)``, 0 for patches that are all alike."""
        if self._sum is None:
            return self._power
        mean = squared_modulus(self._sum / self._count)
        return (self._power / self._count - (mean * self._weight).sum()).clamp_min(0)
