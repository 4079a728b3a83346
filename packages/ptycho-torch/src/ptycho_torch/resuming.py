"""The state of a training between two epochs, kept and resumed from (specs/bundle.md, CKP-7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from ptycho_data.fitting import Attempts, TrainingCheckpoints

from ptycho_torch.checkpoints import SafetensorsCheckpoints


class Saver(Callback):
    """Keeps Lightning's state at the start of an epoch, when all of the epoch before has been done with.

    It comes after the callback that restarts a collapsed training, and before the one that keeps the best weights.

    Args:
        checkpoints: Where the state is kept, and what to resume from.
        attempts: The budget, a part of the state.
        keeper: Keeps the best weights. They are a part of the state, because a killed training may have replaced them.
    """

    def __init__(self, checkpoints: TrainingCheckpoints, attempts: Attempts, keeper: ModelCheckpoint) -> None:
        self._checkpoints, self._attempts, self._keeper = checkpoints, attempts, keeper
        self._saves = False

    @property
    def resumes_from(self) -> Path | None:
        """Path of the state to resume from, or None."""
        return None if self._checkpoints.state is None else self._checkpoints.path

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        kept = checkpoint["ptycho"]
        assert self._checkpoints.state is not None
        self._attempts.resume(kept["attempts"], done=self._checkpoints.state.epochs)
        trainer.fit_loop.max_epochs = self._attempts.last_epoch
        if kept["best"] is not None and not Path(kept["best_path"]).exists():
            SafetensorsCheckpoints().save_checkpoint(kept["best"], kept["best_path"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fit_loop.restarting:
            # The epoch begins as any other: Lightning would take the first epoch's order, and leave a schedule out.
            trainer.fit_loop.restarting = False
        elif trainer.strategy.broadcast(self._checkpoints.due()):
            self._saves = True
            try:
                trainer.save_checkpoint(self._checkpoints.path)
            finally:
                self._saves = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._saves:
            return
        path = self._keeper.best_model_path
        best = SafetensorsCheckpoints().load_checkpoint(path) if path else None
        checkpoint["ptycho"] = {"attempts": self._attempts.state(), "best": best, "best_path": path}
