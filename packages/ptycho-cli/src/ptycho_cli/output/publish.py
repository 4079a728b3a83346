"""Put results in their place only after the work has succeeded (specs/cli.md, CLI-20, CLI-21, CLI-34)."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from ptycho_data.atomic_files import move_into_place, sync_file, temporary_name
from ptycho_data.run_folder import run_folder
from ptycho_data.signals import signals_wait

from ptycho_cli.output.earlier import recorded, remove_left_out


def require_output_dir(path: Path, *, named: str = "--output-dir") -> None:
    """Refuse an output folder that cannot be made, before any work. Creates nothing.

    Args:
        path: The folder.
        named: The flag or the file by which it was named.

    Raises:
        ContractError: the path, or one above it, is a file; or it is not writable.
    """
    for place in (path, *path.parents):
        if not place.exists():
            continue
        if not place.is_dir():
            problem = Problem(named, "output.not_a_folder", "a folder", f"the file {place}", "choose a folder")
            raise ContractError(problem)
        if not os.access(place, os.W_OK):
            problem = Problem(named, "output.not_writable", "a writable folder", str(place), "choose another")
            raise ContractError(problem)
        return


def require_files(files: Sequence[tuple[str, Path]]) -> None:
    """Refuse missing inputs, all at once.

    Args:
        files: What each file is, such as ``"Training data file"``, and its path.

    Raises:
        MissingFileError: naming every missing path.
    """
    missing = [(what, path) for what, path in files if not os.path.exists(path)]
    if missing:
        raise MissingFileError(
            Problem(f"{what} not found: {path}", "file.missing", "an existing file", "nothing", "check the path")
            for what, path in missing
        )


@contextmanager
def staged(output_dir: Path, *, summary: str | None = None) -> Iterator[Path]:
    """A folder inside ``output_dir`` whose files move into ``output_dir`` when the block succeeds.

    Args:
        output_dir: Made if missing; no other run may be writing into it.
        summary: Name of the file that moves last: it says which files belong together. Files of the set that it
            replaces go first, unless they belong to both.
    """
    with run_folder(output_dir):
        stage = output_dir / temporary_name("partial")
        stage.mkdir()
        try:
            yield stage
            files = sorted(stage.iterdir(), key=lambda file: (file.name == summary, file.name))
            for file in files:
                sync_file(file)
            with signals_wait():
                for file in files:
                    if file.name == summary:
                        remove_left_out(output_dir, summary, recorded(file))
                    move_into_place(file, output_dir / file.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def digests(files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of each file, by name."""
    from ptycho_data.files import file_sha256

    return {file.name: file_sha256(file) for file in files}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON; NumPy values become plain ones, paths become strings, and numbers that are not finite null."""
    path.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """JSON value of ``value``."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return str(value)
