"""The folder of a run's results: one run at a time, without left-overs of killed ones (specs/store.md, RUN)."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.atomic_files import make_folder, temporary_name
from ptycho_data.foreign_content import from_json

LOCK = ".run.lock"
"""Name of the file that says which run writes into a folder."""
BEAT_SECONDS = 10.0
"""Time between two signs of life of a run, the modification time of its lock."""
SILENT_SECONDS = 60.0
"""A run on another machine without a sign of life for so long has ended."""
_TRIES = 20
_LEFT_OVER = re.compile(
    r"\.(partial|store|synthetic|groups-\w+|.+\.(safetensors|npz|png|json|md|lock))\.(tmp|old)-(?P<pid>\d+)-[0-9a-f]{8}"
)
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_SWEPT = (".", "checkpoints", "store", "synthetic")


@dataclass(frozen=True)
class Holder:
    """The run that writes into a folder.

    Attributes:
        command: What it runs.
        since: When it began, ISO 8601.
        host: Name of its machine.
        place: Within which process numbers have a meaning: machine, boot and namespace.
        pid: Number of its process.
        started: When that process started, in the system's ticks; None if unknown. Numbers of processes are used again.
        thread: Number of its thread.
    """

    command: str
    since: str
    host: str
    place: str
    pid: int
    started: int | None
    thread: int

    @classmethod
    def here(cls, command: Sequence[str]) -> Holder:
        """This thread of this process."""
        pid, now = os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds")
        words = " ".join(command) or "a run"
        return cls(words, now, socket.gethostname(), _place(), pid, _started(pid), threading.get_ident())

    def is_thread_of(self, other: Holder) -> bool:
        """Whether both are the same thread."""
        return self.process == other.process and self.thread == other.thread

    @property
    def process(self) -> tuple[str, int, int | None]:
        """What identifies the process."""
        return self.place, self.pid, self.started

    def __str__(self) -> str:
        return f"`{self.command}`, process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def run_folder(path: Path, command: Sequence[str] = ()) -> Iterator[None]:
    """A with-block that alone writes into a folder, which is made if missing and swept of what killed runs left.

    Blocks of the same folder may be nested in one thread. Needs no ``flock``, which network file systems may lack.

    Args:
        path: The folder. If it was made here and is still empty in the end, it is removed.
        command: What runs, as others are told.

    Raises:
        ContractError: ``output.locked``, another run writes there; names it.
    """
    made = make_folder(path)
    lock, mine = path / LOCK, Holder.here(command)
    try:
        held = _read(lock)
        if held is not None and held[1] is not None and held[1].is_thread_of(mine):
            yield
            return
        content = _take(lock, mine)
        try:
            sweep(path)
            with _signs_of_life(lock):
                yield
        finally:
            if (_read(lock) or ("",))[0] == content:
                lock.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def running_in(path: Path) -> Holder | None:
    """The run that writes into a folder now; None if there is none, or if it cannot be told."""
    found = _read(path / LOCK)
    if found is None or found[1] is None:
        return None
    return found[1] if _is_alive(found[1], age_s=0.0) else None


def is_first_process(processes: int) -> bool:
    """Whether this process holds the folder, of several that train together, as launchers number them.

    Args:
        processes: How many train together.
    """
    return processes == 1 or all(os.environ.get(name, "0") == "0" for name in _RANKS)


def sweep(path: Path) -> None:
    """Remove temporary files and folders of ours whose process has ended; all other names stay."""
    for folder in _SWEPT:
        for entry in (path / folder).glob(".*"):
            ours = _LEFT_OVER.fullmatch(entry.name)
            if ours is None or _exists(int(ours["pid"])):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _take(lock: Path, mine: Holder) -> str:
    """Make the lock, complete from its first moment; what was written into it."""
    content = json.dumps(asdict(mine))
    temporary = lock.with_name(temporary_name(LOCK))
    try:
        temporary.write_text(content, encoding="utf-8")
        now = temporary.stat().st_mtime  # of the file system, whose clock may differ from this machine's
        for _ in range(_TRIES):
            if _placed(temporary, lock, content):
                return content
            found = _read(lock)
            if found is None:
                continue
            text, holder, changed = found
            if _is_alive(holder, age_s=now - changed):
                raise _locked(lock, holder)
            _set_aside(lock, text)
        raise _locked(lock, None)
    finally:
        temporary.unlink(missing_ok=True)


def _placed(temporary: Path, lock: Path, content: str) -> bool:
    try:
        os.link(temporary, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with lock.open("x", encoding="utf-8") as text:
                text.write(content)
        except FileExistsError:
            return False
    return True


def _set_aside(lock: Path, text: str) -> None:
    """Remove the lock of a run that has ended, unless another run has just done so and made its own."""
    aside = lock.with_name(temporary_name(LOCK))
    try:
        os.rename(lock, aside)
    except FileNotFoundError:
        return
    if aside.read_text(encoding="utf-8", errors="replace") != text:
        with suppress(OSError):
            os.link(aside, lock)
    aside.unlink()


def _read(lock: Path) -> tuple[str, Holder | None, float] | None:
    """Text, holder (None if it cannot be read) and modification time of a lock; None if there is none."""
    try:
        text, changed = lock.read_text(encoding="utf-8", errors="replace"), lock.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        return text, Holder(**from_json(text)), changed
    except (ValueError, TypeError):
        return text, None, changed


def _is_alive(holder: Holder | None, *, age_s: float) -> bool:
    """Whether a run goes on: by its process on this machine, by its signs of life elsewhere."""
    if holder is None or holder.place != _place():
        return age_s < SILENT_SECONDS
    return _exists(holder.pid) and _started(holder.pid) == holder.started


def _exists(pid: int) -> bool:
    """Whether there is such a process here, other than one that was killed and waits for its parent."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return (_status(pid) or [""])[0] != "Z"


def _status(pid: int) -> list[str]:
    """Fields of a process from its state on, where the system has them in files."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int | None:
    fields = _status(pid)
    return int(fields[19]) if len(fields) > 19 else None


def _place() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@contextmanager
def _signs_of_life(lock: Path) -> Iterator[None]:
    """Refresh the lock's modification time in the background, for runs on other machines."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(lock)

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _locked(lock: Path, holder: Holder | None) -> ContractError:
    return ContractError(
        Problem(
            str(lock.parent),
            "output.locked",
            "a folder that no other run writes into",
            "a run that has just begun" if holder is None else str(holder),
            f"wait for it or choose another folder; if it has ended, remove {lock}",
        )
    )
