"""State of a joint reconstruction between two epochs, as one safetensors file (specs/bundle.md, CKP-3 to CKP-6)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError
from safetensors import SafetensorError

from ptycho_data.foreign_content import from_json
from ptycho_data.input_files import checked_file
from ptycho_data.tensor_files import READ_ERRORS, read_tensors, tensor_digest, write_tensors

FORMAT = "ptycho-joint-fit"
SCHEMA = 1
_SEALED = ("state", "facts")
_START = "start."
BUDGET = ("epochs", "max_seconds", "refine")
"""Options that another run may change and yet resume: how long it lasts."""
SPACING_SECONDS = 2.0
"""Least time between two checkpoints."""
SPACING_FACTOR = 20.0
"""Least time between two checkpoints, in units of what the last one took: at most a twentieth is spent on them."""


@dataclass(frozen=True, eq=False)
class FitStart:
    """What a run makes before its fit, which depends on the time that it has; a resumed one takes it from the file.

    Attributes:
        probes: complex64, by name.
        facts: JSON values.
    """

    probes: Mapping[str, NDArray[np.complex64]]
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class FitState:
    """What a joint reconstruction resumes from.

    Attributes:
        arrays: float32, by the names of CKP-3.
        epoch: Epochs that are done.
        steps: Adam's steps of each parameter that has been stepped.
        losses: Training loss of each epoch.
        val_losses: Validation loss of each epoch, empty without validation.
        best_epoch: Number of the epoch of the lowest validation loss, from 1; 0 without validation.
        seconds: Wall time that the fit has taken.
        start: What the run had made before the fit, or None (CKP-10).
    """

    arrays: Mapping[str, NDArray[np.float32]]
    epoch: int
    steps: Mapping[str, int]
    losses: tuple[float, ...]
    val_losses: tuple[float, ...] = ()
    best_epoch: int = 0
    seconds: float = 0.0
    start: FitStart | None = None


@dataclass(frozen=True, eq=False)
class CheckpointPlan:
    """Where a run keeps the state of its joint reconstruction, and whose state that is.

    Attributes:
        path: The file.
        facts: JSON values that say what the run is: backend, versions, device, settings (CKP-5).
        resume: Whether to resume from the file.
        clock: Seconds, for the spacing.
        begun: The start of the run, once it is known.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    clock: Callable[[], float] = time.monotonic
    begun: list[FitStart] = field(default_factory=list)

    def check(self) -> None:
        """Before any work: refuse to resume from a file that is missing, broken or of another run.

        Raises:
            MissingFileError, ContractError: as :class:`Checkpoints`.
        """
        if self.resume:
            Checkpoints(self.path, self.facts, resume=True)

    def start(self, made: Callable[[], FitStart]) -> FitStart:
        """The start of the run: from the file that it resumes from, else made now."""
        kept = read_checkpoint(self.path)[1].start if self.resume else None
        self.begun[:] = [made() if kept is None else kept]
        return self.begun[0]

    def opened(self, facts: Mapping[str, Any]) -> Checkpoints:
        """The checkpoints of the fit itself, with the facts that the run and the fit have."""
        opened = Checkpoints(self.path, {**self.facts, **facts}, resume=self.resume, clock=self.clock)
        opened.start = self.begun[0] if self.begun else None
        return opened


class Spacing:
    """Time between two checkpoints, so that at most a twentieth of a fit is spent on them (CKP-4).

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._next = clock, clock() + SPACING_SECONDS

    def over(self) -> bool:
        """Whether the next checkpoint may be written."""
        return self._clock() >= self._next

    @contextmanager
    def measured(self) -> Iterator[None]:
        """A with-block that writes one."""
        began = self._clock()
        yield
        now = self._clock()
        self._next = now + max(SPACING_SECONDS, SPACING_FACTOR * (now - began))


class Checkpoints:
    """The checkpoint file of one joint reconstruction.

    Args:
        path: The file.
        facts: JSON values that say whose state it is.
        resume: Whether to resume from it; then it is read now.
        clock: Seconds, for the spacing.

    Attributes:
        state: What to resume from; None for a new fit.
        start: What the run had made before, to be kept with each state.

    Raises:
        MissingFileError: ``checkpoint.missing``.
        ContractError: ``checkpoint.broken``, or ``checkpoint.other``: it is another run's, with every difference.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], *, resume: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self._facts, self._spacing = path, json.loads(json.dumps(facts)), Spacing(clock)
        self.state: FitState | None = None
        self.start: FitStart | None = None
        if resume:
            kept, self.state = read_checkpoint(path)
            require_same(path, self._facts, kept)

    def due(self) -> bool:
        """Whether the next checkpoint may be written."""
        return self._spacing.over()

    def write(self, state: FitState) -> None:
        """Replace the file in one step.

        Raises:
            WorkFailedError: ``checkpoint.write``, the disk refuses.
        """
        with self._spacing.measured():
            write_checkpoint(self.path, replace(state, start=self.start), self._facts)


def checkpoint_plan(
    path: Path | None, *, resume: bool, enabled: bool, settings: Iterable[Mapping[str, Any]], **facts: Any
) -> CheckpointPlan | None:
    """Where a workflow keeps the state of its joint reconstruction; None if none is kept.

    Args:
        path: The file; None for none.
        resume: Whether to resume from it.
        enabled: Whether checkpoints are enabled.
        settings: Options of the run; its budget, and paths among them, are no facts.
        facts: JSON values that say whose state it is.

    Raises:
        MissingFileError, ContractError: nothing to resume from, a broken file, or another run's.
    """
    if not is_kept(path, resume=resume, enabled=enabled) or path is None:
        return None
    options = {name: value for section in settings for name, value in section.items()}
    plan = CheckpointPlan(path, {"settings": who_runs(options), **facts}, resume=resume)
    plan.check()
    return plan


def is_kept(path: Path | None, *, resume: bool, enabled: bool) -> bool:
    """Whether a run keeps its state in a file.

    Raises:
        ContractError: ``checkpoint.disabled``, it is to resume, but keeps none.
    """
    if path is not None and enabled:
        return True
    if resume:
        raise ContractError(
            Problem(
                "resume",
                "checkpoint.disabled",
                "a run that keeps checkpoints",
                "one that keeps none",
                "leave out `resume`, or enable checkpoints",
            )
        )
    return False


def who_runs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say whose state a checkpoint is: not those of the budget, nor a file of held-out patterns, whose
    content counts, wherever it lies."""
    left_out = {*BUDGET, *(["hold_out"] if str(options.get("hold_out")).endswith(".npy") else [])}
    return {name: value for name, value in options.items() if name not in left_out}


def no_epoch_left(where: str, *, done: int, epochs: int) -> ContractError:
    """The error of a run that is to resume with fewer epochs than are done."""
    return ContractError(
        Problem(
            where,
            "checkpoint.budget",
            f"more epochs than the {done} that are done in the checkpoint",
            str(epochs),
            "give more `epochs`, or start anew without `resume`",
        )
    )


def require_same(path: Path, facts: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that differs in any of these facts."""
    mine, theirs = _flattened(facts), _flattened({name: kept.get(name) for name in facts})
    problems = [
        Problem(
            f"{path}: {name}",
            "checkpoint.other",
            f"{_short(mine.get(name))}, as this run has it",
            _short(theirs.get(name)),
            "resume with the settings, model and data of the run that was interrupted, or restart without `resume`",
        )
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]
    if problems:
        raise ContractError(problems)


def write_checkpoint(path: Path, state: FitState, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; what was at ``path`` is replaced in one step, only when all is on disk.

    Raises:
        WorkFailedError: ``checkpoint.write``, the disk refuses.
    """
    tensors = {name: np.asarray(value, np.float32, order="C") for name, value in state.arrays.items()}
    names = ("epoch", "steps", "losses", "val_losses", "best_epoch", "seconds")
    content = {name: getattr(state, name) for name in names}
    if state.start is not None:
        content["start"] = state.start.facts
        for name, probe in state.start.probes.items():
            tensors[_START + name] = np.ascontiguousarray(probe, np.complex64).view(np.float32)
    header = {"format": FORMAT, "schema": str(SCHEMA), "state": json.dumps(content), "facts": json.dumps(facts)}
    try:
        write_tensors(path, tensors, header, sealed=_SEALED)
    except (OSError, SafetensorError) as error:
        raise WorkFailedError(
            Problem(
                str(path),
                "checkpoint.write",
                "a disk that takes the checkpoint",
                str(error),
                "free space, or go without checkpoints (`enable_checkpointing=False`)",
            )
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Any], FitState]:
    """The facts and the state of a checkpoint. Nothing in the file is executed.

    Raises:
        MissingFileError: ``checkpoint.missing``.
        ContractError: ``checkpoint.broken``: not a whole, unaltered checkpoint of a joint reconstruction.
    """
    require_checkpoint(path)
    try:
        checked_file(path)
        header, tensors = read_tensors(path)
        if (header.get("format"), header.get("schema")) != (FORMAT, str(SCHEMA)):
            raise ValueError(f"format {header.get('format')!r}, schema {header.get('schema')!r}")
        if header["sha256"] != tensor_digest(header, tensors, _SEALED):
            raise ValueError("content that was altered")
        if any(value.dtype != np.float32 for value in tensors.values()):
            raise ValueError("tensors that are not float32")
        state, facts = from_json(header["state"]), from_json(header["facts"])
        first = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_START)}
        probes = {name.removeprefix(_START): value.view(np.complex64) for name, value in first.items()}
        return dict(facts), FitState(
            start=FitStart(probes, dict(state["start"])) if probes else None,
            arrays=tensors,
            epoch=int(state["epoch"]),
            steps={str(name): int(steps) for name, steps in state["steps"].items()},
            losses=tuple(map(float, state["losses"])),
            val_losses=tuple(map(float, state["val_losses"])),
            best_epoch=int(state["best_epoch"]),
            seconds=float(state["seconds"]),
        )
    except READ_ERRORS as error:
        raise broken(path, " ".join(str(error).split())) from error


def require_checkpoint(path: Path) -> None:
    """Refuse to resume from a missing file.

    Raises:
        MissingFileError: ``checkpoint.missing``.
    """
    if not os.path.exists(path):
        raise MissingFileError(
            Problem(
                str(path),
                "checkpoint.missing",
                "a checkpoint to resume from",
                "no such file",
                "start without `resume`, or check the output folder",
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
            "restart without `resume`",
        )
    )


def _flattened(facts: Any, name: str = "") -> dict[str, Any]:
    """Facts by their dotted names."""
    if not isinstance(facts, dict) or not facts:
        return {name: facts}
    return {
        key: value for inner in facts for key, value in _flattened(facts[inner], f"{name}.{inner}".strip(".")).items()
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "..."
