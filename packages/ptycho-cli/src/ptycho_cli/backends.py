"""Find and import the backend that computes (specs/cli.md, CLI-15)."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from ptycho_contracts.problems import ContractError, Problem, nearest
from ptycho_data.stages import Progress, begin

GROUP = "ptycho.backends"
ALIASES = {"torch": "torch", "pytorch": "torch", "tf": "tf", "tensorflow": "tf"}
DEFAULT = "torch"
_FRAMEWORKS = {"torch": ("torch", "PyTorch"), "tf": ("tensorflow", "TensorFlow")}


def require_backend(name: str = DEFAULT) -> None:
    """Refuse a backend that is not there, before any work; imports nothing.

    Raises:
        ContractError: unknown name, or not installed.
    """
    _found(name)


def load_backend(name: str = DEFAULT, progress: Progress | None = None) -> ModuleType | Any:
    """The backend's module, imported now.

    Args:
        progress: Hears that it begins, if it watches: the first time takes some seconds.

    Raises:
        ContractError: unknown name, not installed, or one of its own requirements is missing.
    """
    canonical, entry, remedy = _found(name)
    framework, words = _FRAMEWORKS[canonical]
    if framework not in sys.modules:
        begin(progress, f"loading {words}")
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise ContractError(
            Problem(
                "--backend",
                "backend.broken",
                f"backend '{canonical}' with all that it imports",
                f"no module named {error.name!r}",
                remedy,
            )
        ) from error


def _found(name: str) -> tuple[str, EntryPoint, str]:
    """Canonical name of a backend, its entry point, and how to install it."""
    if name not in ALIASES:
        raise ContractError(
            Problem("--backend", "backend.unknown", "one of " + ", ".join(ALIASES), repr(name), nearest(name, ALIASES))
        )
    canonical = ALIASES[name]
    entry = _installed().get(canonical)
    remedy = f"pip install 'ptycho-cli[{canonical}]'"
    if entry is None:
        raise ContractError(
            Problem("--backend", "backend.missing", f"backend '{canonical}' installed", _names(), remedy)
        )
    return canonical, entry, remedy


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _names() -> str:
    return ", ".join(sorted(_installed())) or "none"
