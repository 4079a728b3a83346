"""State of a training between two epochs, as one safetensors file (specs/bundle.md, CKP-7 to CKP-9)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, Section, to_dict
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError
from safetensors import SafetensorError

from ptycho_data.fitting.checkpoints import Spacing, is_kept, require_checkpoint, require_same, who_runs
from ptycho_data.tensor_files import READ_ERRORS, read_tensors, tensor_digest, write_tensors

FORMAT = "ptycho-training"
SCHEMA = 1
WRITE_ERRORS = (OSError, SafetensorError)
"""What a disk that refuses can raise."""
_SEALED = ("state", "facts")
_PROBE = "probe of the run"
_WITHOUT_EFFECT = (
    "accelerator",
    "num_workers",
    "prefetch_factor",
    "enable_progress_bar",
    "enable_checkpointing",
    "checkpoint_save_top_k",
    "logger_backend",
    "inference_batch_size",
)
"""Options of the execution that change no bit of the weights; the device is a fact of its own."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What a training resumes from.

    Attributes:
        epochs: Epochs that are done.
        arrays: The backend's, by name.
        content: The backend's JSON values.
    """

    epochs: int
    arrays: Mapping[str, NDArray[Any]]
    content: Mapping[str, Any]


class TrainingCheckpoints:
    """The checkpoint file of one training.

    Args:
        path: The file.
        facts: JSON values that say whose state it is (CKP-8).
        resume: Whether to resume from it; then it is read now.
        clock: Seconds, for the spacing.

    Attributes:
        state: What to resume from; None for a new training.
        epochs: Epochs that are done in the file; None if this training has none yet.
        written: Number of checkpoints that were written.

    Raises:
        MissingFileError: ``checkpoint.missing``.
        ContractError: ``checkpoint.broken``, or ``checkpoint.other``: it is another run's, with every difference.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], *, resume: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self._facts = path, json.loads(json.dumps(facts))
        self._spacing = Spacing(clock)
        self._probe: tuple[NDArray[np.complex64], Mapping[str, Any]] | None = None
        self.state: TrainingState | None = None
        self.epochs: int | None = None
        self.written = 0
        if resume:
            kept, self.state, self._probe = _read(path)
            require_same(path, self._facts, kept)
            self.epochs = self.state.epochs

    def probe(
        self, made: Callable[[], tuple[NDArray[np.complex64], dict[str, Any]]]
    ) -> tuple[NDArray[np.complex64], dict[str, Any]]:
        """The probe of the run and what the summary says of it: from the file, or made now.

        A device may compute other bits when it makes it again; the file has the probe that was trained with.
        """
        if self._probe is None:
            self._probe = made()
        probe, results = self._probe
        return probe, dict(results)

    def due(self) -> bool:
        """Whether the next checkpoint may be written; the first one may at once."""
        return self.written == 0 or self._spacing.over()

    def write(self, epochs: int, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        """Replace the file in one step.

        Args:
            epochs: Epochs that are done.
            arrays: The backend's, by name.
            content: The backend's JSON values.

        Raises:
            One of ``WRITE_ERRORS``: the disk refuses.
        """
        assert self._probe is not None
        probe, results = self._probe
        tensors = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        tensors[_PROBE] = np.ascontiguousarray(probe, np.complex64).view(np.float32)
        state = {"epochs": epochs, "content": content, "probe": results}
        header = {"format": FORMAT, "schema": str(SCHEMA), "state": json.dumps(state), "facts": json.dumps(self._facts)}
        with self._spacing.measured():
            write_tensors(self.path, tensors, header, sealed=_SEALED)
        self.epochs, self.written = epochs, self.written + 1

    def __str__(self) -> str:
        """What it keeps, in words."""
        if self.epochs is None:
            return "nothing was kept"
        return f"the state after epoch {self.epochs} is {self.path}: `resume` continues from there"


def training_checkpoints(
    path: Path | None,
    *,
    resume: bool,
    enabled: bool,
    settings: Iterable[Section],
    facts: Callable[[], Mapping[str, Any]],
) -> TrainingCheckpoints | None:
    """The checkpoint file of a training; None if none is kept.

    Args:
        path: The file; None for none.
        resume: Whether to resume from it.
        enabled: Whether checkpoints are enabled.
        settings: Options of the run; those that change no bit, its budget, and paths, are no facts.
        facts: Makes JSON values that say whose state it is.

    Raises:
        MissingFileError, ContractError: nothing to resume from, a broken file, or another run's.
    """
    if not is_kept(path, resume=resume, enabled=enabled) or path is None:
        return None
    options: dict[str, Any] = {}
    for section in settings:
        names = to_dict(section)
        if isinstance(section, ExecutionConfig):
            names = {name: value for name, value in names.items() if name not in _WITHOUT_EFFECT}
        options |= names
    options.pop("start_from", None)
    return TrainingCheckpoints(path, {"settings": who_runs(options), **facts()}, resume=resume)


def disk_refused(where: Path, error: BaseException, kept: str) -> WorkFailedError:
    """The error of a training whose disk is full."""
    return WorkFailedError(
        Problem(str(where), "training.write", "a disk that takes the files", " ".join(str(error).split()), kept)
    )


def _read(path: Path) -> tuple[dict[str, Any], TrainingState, tuple[NDArray[np.complex64], dict[str, Any]]]:
    """Facts, state and probe. Nothing in the file is executed."""
    require_checkpoint(path)
    try:
        header, tensors = read_tensors(path)
        if (header.get("format"), header.get("schema")) != (FORMAT, str(SCHEMA)):
            raise ValueError(f"format {header.get('format')!r}, schema {header.get('schema')!r}")
        if header["sha256"] != tensor_digest(header, tensors, _SEALED):
            raise ValueError("content that was altered")
        state, facts = json.loads(header["state"]), json.loads(header["facts"])
        probe = np.ascontiguousarray(tensors.pop(_PROBE)).view(np.complex64)
        return dict(facts), TrainingState(int(state["epochs"]), tensors, state["content"]), (probe, state["probe"])
    except MissingFileError:
        raise
    except READ_ERRORS as error:
        raise broken(path, " ".join(str(error).split())) from error


def broken(path: Path, found: str) -> ContractError:
    """The error of a training's checkpoint that is not what it should be."""
    return ContractError(
        Problem(
            str(path),
            "checkpoint.broken",
            f"a whole checkpoint of format '{FORMAT}', schema {SCHEMA}",
            found,
            "restart without `resume`",
        )
    )
