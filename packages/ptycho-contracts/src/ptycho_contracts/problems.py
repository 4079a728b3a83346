"""Problems with an input, and the errors that carry them.

A problem says what was expected, what was found, where, and how to correct it.
Validators collect every problem of an input before one error is raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of an input.

    Attributes:
        where: What it concerns: a path, an array or an option, such as ``"scan.npz: diff3d"``.
        code: Stable identifier, such as ``"array.shape"``; texts may change, codes do not.
        expected: What a good input has.
        found: What this input has.
        remedy: How the user can correct it.
    """

    where: str
    code: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}; {self.remedy} [{self.code}]"


class PtychoError(Exception):
    """Base of all errors that this suite raises on purpose."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise TypeError("an error needs at least one Problem")
        super().__init__(str(self))

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        return f"{len(self.problems)} problems: " + " | ".join(map(str, self.problems))

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of all problems, in order."""
        return tuple(problem.code for problem in self.problems)


class ContractError(PtychoError, ValueError):
    """The caller's input breaks a contract: bad array, option or file content."""


class MissingFileError(PtychoError, FileNotFoundError):
    """A file that was asked for does not exist."""


class WorkFailedError(PtychoError, RuntimeError):
    """The input was good, but the work on it failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Remedy for an unknown name: the closest known one, else the list of all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known names: {', '.join(known)}"
