"""State of a joint descent between two epochs, as one safetensors file (specs/bundle.md, CKP-3 to CKP-6)."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError

from ptycho_data.tensor_files import TensorFiles

FORMAT = "ptycho-descent"
SCHEMA = 1
SPACING_SECONDS = 2.0
"""Least time between two checkpoints."""
SPACING_FACTOR = 20.0
"""Least time between two checkpoints, in units of what the last one took: at most a twentieth goes into them."""


@dataclass(frozen=True, eq=False)
class DescentState:
    """What a descent goes on from.

    Attributes:
        arrays: float32, by the names of CKP-3.
        epoch: Epochs that are done.
        steps: Adam's steps of each parameter that has been stepped.
        losses: Training loss of each epoch.
        val_losses: Validation loss of each epoch, empty without validation.
        best_epoch: Number of the epoch of the lowest validation loss, from 1; 0 without validation.
        seconds: Wall time that the descent has taken.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    epoch: int
    steps: Mapping[str, int]
    losses: tuple[float, ...]
    val_losses: tuple[float, ...] = ()
    best_epoch: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class DescentCheckpoints:
    """The checkpoint file of one descent.

    Attributes:
        path: The file.
        files: How it is read and written.
        resume: Whether to go on from it.
        clock: Seconds, for the spacing.
    """

    path: Path
    files: TensorFiles
    resume: bool = False
    clock: Callable[[], float] = time.monotonic
    _facts: dict[str, Any] = field(default_factory=dict, init=False)
    _found: tuple[dict[str, Any], DescentState] | None = field(default=None, init=False)
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = self.clock() + SPACING_SECONDS
        if self.resume:
            self._found = read_checkpoint(self.path, self.files)

    def belong_to(self, **facts: Any) -> None:
        """Say whose state it is; may be called several times, each time with more.

        Args:
            facts: JSON values.

        Raises:
            ContractError: ``checkpoint.other``, the checkpoint to go on from is another run's; every difference.
        """
        facts = json.loads(json.dumps(facts))
        self._facts |= facts
        if self._found is None:
            return
        kept = self._found[0]
        mine, theirs = _flat(facts), _flat({name: kept.get(name) for name in facts})
        problems = [
            Problem(
                f"{self.path}: {name}",
                "checkpoint.other",
                f"{_short(mine.get(name))}, as this run has it",
                _short(theirs.get(name)),
                "resume with the settings, model and data of the run that was "
                "interrupted, or start anew without --resume",
            )
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        if problems:
            raise ContractError(problems)

    def state(self) -> DescentState | None:
        """What to go on from; None for a descent that begins."""
        return None if self._found is None else self._found[1]

    def due(self) -> bool:
        """Whether the next checkpoint may be written."""
        return self.clock() >= self._next

    def write(self, state: DescentState) -> None:
        """Replace the file in one step.

        Raises:
            WorkFailedError: ``checkpoint.write``, the disk refuses.
        """
        began = self.clock()
        write_checkpoint(self.path, state, self._facts, self.files)
        now = self.clock()
        self._next = now + max(SPACING_SECONDS, SPACING_FACTOR * (now - began))


def run_checkpoints(
    path: Path | None,
    files: TensorFiles,
    *,
    resume: bool,
    enabled: bool,
    settings: Iterable[Mapping[str, Any]],
    **facts: Any,
) -> DescentCheckpoints | None:
    """The checkpoints of a command's descent; None where none are kept.

    Args:
        path: The file; None for none.
        resume: Whether to go on from it.
        enabled: Whether checkpoints are wanted.
        settings: Options of the run; paths among them are no facts.
        facts: JSON values that say whose state it is.

    Raises:
        MissingFileError, ContractError: nothing to go on from, a broken file, or another run's.
    """
    if path is None or not enabled:
        if resume:
            raise ContractError(
                Problem(
                    "resume",
                    "checkpoint.disabled",
                    "a run that keeps checkpoints",
                    "one that keeps none",
                    "leave out --resume, or enable checkpoints",
                )
            )
        return None
    kept = DescentCheckpoints(path, files, resume=resume)
    options = {name: value for section in settings for name, value in section.items()}
    if str(options.get("hold_out")).endswith(".npy"):
        del options["hold_out"]
    kept.belong_to(settings=options, **facts)
    return kept


def write_checkpoint(path: Path, state: DescentState, facts: Mapping[str, Any], files: TensorFiles) -> None:
    """Write a checkpoint; what was at ``path`` is replaced in one step, only when all is on disk.

    Raises:
        WorkFailedError: ``checkpoint.write``, the disk refuses.
    """
    tensors = {name: np.asarray(value, np.float32, order="C") for name, value in state.arrays.items()}
    names = ("epoch", "steps", "losses", "val_losses", "best_epoch", "seconds")
    told = {name: getattr(state, name) for name in names}
    header = {"format": FORMAT, "schema": str(SCHEMA), "state": json.dumps(told), "facts": json.dumps(facts)}
    header["sha256"] = _digest(header, tensors)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save(tensors, str(temporary), metadata=header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, files.error) as error:
        with suppress(OSError):
            temporary.unlink()
        raise WorkFailedError(
            Problem(
                str(path),
                "checkpoint.write",
                "a disk that takes the checkpoint",
                str(error),
                "free space, or go without checkpoints (--disable-checkpointing)",
            )
        ) from error


def read_checkpoint(path: Path, files: TensorFiles) -> tuple[dict[str, Any], DescentState]:
    """The facts and the state of a checkpoint. Nothing in the file is executed.

    Raises:
        MissingFileError: ``checkpoint.missing``.
        ContractError: ``checkpoint.broken``: not a whole, unaltered checkpoint of a descent.
    """
    require_checkpoint(path)
    try:
        with files.open(str(path), framework="np") as file:
            # Copies: the file will be replaced while its state is in use.
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
        if (header.get("format"), header.get("schema")) != (FORMAT, str(SCHEMA)):
            raise ValueError(f"format {header.get('format')!r}, schema {header.get('schema')!r}")
        if header["sha256"] != _digest(header, tensors):
            raise ValueError("content that was altered")
        if any(value.dtype != np.float32 for value in tensors.values()):
            raise ValueError("tensors that are not float32")
        state, facts = json.loads(header["state"]), json.loads(header["facts"])
        return dict(facts), DescentState(
            arrays=tensors,
            epoch=int(state["epoch"]),
            steps={str(name): int(steps) for name, steps in state["steps"].items()},
            losses=tuple(map(float, state["losses"])),
            val_losses=tuple(map(float, state["val_losses"])),
            best_epoch=int(state["best_epoch"]),
            seconds=float(state["seconds"]),
        )
    except (files.error, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise broken(path, " ".join(str(error).split())) from error


def require_checkpoint(path: Path) -> None:
    """Refuse to go on from a file that is not there.

    Raises:
        MissingFileError: ``checkpoint.missing``.
    """
    if not path.exists():
        raise MissingFileError(
            Problem(
                str(path),
                "checkpoint.missing",
                "a checkpoint to resume from",
                "no such file",
                "start without --resume, or check the output folder",
            )
        )


def broken(path: Path, found: str) -> ContractError:
    """The error of a checkpoint that is not what it should be."""
    return ContractError(
        Problem(
            str(path),
            "checkpoint.broken",
            f"a whole checkpoint of format '{FORMAT}', schema {SCHEMA}",
            found,
            "start anew without --resume",
        )
    )


def _digest(header: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of state, facts and tensors, in the manner of BUN-6."""
    found = hashlib.sha256()
    for key in ("state", "facts"):
        found.update(f"{key}\n{header[key]}\n".encode())
    for name in sorted(tensors):
        found.update(f"{name}\n{'x'.join(map(str, tensors[name].shape))}\n".encode())
        found.update(np.ascontiguousarray(tensors[name]).data)
    return found.hexdigest()


def _flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Facts by their dotted names."""
    if not isinstance(facts, dict) or not facts:
        return {name: facts}
    return {key: value for inner in facts for key, value in _flat(facts[inner], f"{name}.{inner}".strip(".")).items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "..."
