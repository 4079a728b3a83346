"""How much memory this process may still take, asked before anything large is read or made (specs/files.md, MEMORY)."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ptycho_contracts.problems import ContractError, Problem

_ROOT = Path("/")


def require_memory(needed: int, *, where: str, remedy: str) -> None:
    """Refuse what does not fit into the free memory.

    Args:
        needed: Bytes.
        where, remedy: Of the problem.

    Raises:
        ContractError: ``memory.free``.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise ContractError(
            Problem(
                where,
                "memory.free",
                f"at most the {available / 1e9:.3g} GB of free memory",
                f"{needed / 1e9:.3g} GB needed",
                remedy,
            )
        )


def available_bytes(root: Path = _ROOT) -> int | None:
    """Bytes that this process may still take; None if the system tells nothing.

    The least of: free memory of the machine with reclaimable caches; what each control group above the process
    (container, batch job) leaves, versions 1 and 2; and the process's limits of address space and data
    (``ulimit -v``, ``ulimit -d``).

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    figures = [*_of_machine(root), *_of_groups(root), *_of_limits(root)]
    return max(0, min(figures)) if figures else None


def _of_machine(root: Path) -> Iterator[int]:
    free = _fields(root / "proc/meminfo").get("MemAvailable")
    if free is not None:
        yield free * 1024
    elif root == _ROOT and "SC_AVPHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_groups(root: Path) -> Iterator[int]:
    """A line of ``/proc/self/cgroup`` is ``number:controllers:/path``; version 2 has no controllers."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, most, used, caches = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, most, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            caches = "total_inactive_file"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for group in (mount / inner, *(mount / above for above in inner.parents)):
            limit, taken = _number(group / most), _number(group / used)
            if limit is not None and taken is not None:
                yield limit - taken + _fields(group / "memory.stat").get(caches, 0)


def _of_limits(root: Path) -> Iterator[int]:
    status = _fields(root / "proc/self/status")
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and name in status:
            yield limit - status[name] * 1024


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """A file of one number; None for ``max`` and for no file."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name of lines such as ``MemAvailable:  123 kB`` and ``inactive_file 123``."""
    words = (line.replace(":", " ").split() for line in _lines(path))
    return {line[0]: int(line[1]) for line in words if len(line) >= 2 and line[1].isdigit()}
