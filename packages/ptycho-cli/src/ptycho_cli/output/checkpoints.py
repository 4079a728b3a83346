"""The checkpoint that a fit keeps in its output folder (specs/cli.md, CLI-27)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, Problem

CHECKPOINT = Path("checkpoints") / "joint_fit.safetensors"
"""Of a joint reconstruction, below the output folder."""
TRAINING = Path("checkpoints") / "training.safetensors"
"""Of a training."""


def checkpoint_arguments(output_dir: Path, *, keeps: bool, resume: bool, name: Path = CHECKPOINT) -> dict[str, Any]:
    """Arguments of a backend about checkpoints; refuses a run that cannot be resumed, before any work.

    Args:
        output_dir: Folder of the results.
        keeps: Whether this run fits anything and may keep checkpoints.
        resume: Whether to resume from one.
        name: Of the checkpoint, below the folder.

    Raises:
        ContractError: ``checkpoint.disabled``, a run that keeps none.
        MissingFileError: ``checkpoint.missing``.
    """
    path = output_dir / name
    if resume and not keeps:
        raise ContractError(
            Problem(
                "--resume",
                "checkpoint.disabled",
                "a fit that keeps checkpoints",
                "none: --disable-checkpointing, or infer without --refine",
                "give the options of the previous run, or leave --resume out",
            )
        )
    if resume:
        from ptycho_data.fitting.checkpoints import require_checkpoint

        require_checkpoint(path)
    return {"checkpoint": path if keeps else None, "resume": resume}


def discard_checkpoint(path: Path | None) -> None:
    """Remove the checkpoint of a run whose results are written, and its folder if that is empty."""
    if path is None:
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):  # a training's checkpoints may be beside it
        path.parent.rmdir()
