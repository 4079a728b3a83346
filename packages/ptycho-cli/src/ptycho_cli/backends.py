"""Find and import the backend that computes (specs/cli.md, CLI-15)."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from ptycho_contracts.problems import ContractError, Problem, nearest

GROUP = "ptycho.backends"
ALIASES = {"torch": "torch", "pytorch": "torch", "tf": "tf", "tensorflow": "tf"}
DEFAULT = "torch"


def load_backend(name: str = DEFAULT) -> ModuleType | Any:
    """The backend's module, imported now.

    Raises:
        ContractError: unknown name, not installed, or one of its own requirements is missing.
    """
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


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _names() -> str:
    return ", ".join(sorted(_installed())) or "none"
