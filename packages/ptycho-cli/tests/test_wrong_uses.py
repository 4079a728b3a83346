"""Wrong uses, each with its exit code and what the message must say (specs/cli.md, CLI-62)."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ptycho_cli import backends
from ptycho_cli.main import main
from ptycho_data import workflows
from ptycho_data.bundle_file import Bundle, read_bundle
from ptycho_data.workflows import payloads
from small_scans import small_scan
from wrong_files import make_wrong_files

LONGEST = 360
"""Characters of a message: three lines and a half of a terminal."""
NEVER = ("Traceback", "[Errno", "<class", "dtype(", "array(", "object at 0x", "codec", ".partial", "`", "{'", "['")
"""Words of Python, and names that no user has given."""

CATALOGUE = Path(__file__).with_name("wrong_uses.txt")
READ_AND_WRONG = {
    "metres.npz": "all within one pixel: metres instead of pixels? ... fit for use no: positions",
    "black.npz": "no photons in any pattern: the wrong array? ... fit for use no: unit",
    "one.npz": "one position only: nothing overlaps ... fit for use no: overlap",
    "stray.npz": "1 far from all others: row 3 ... fit for use no: positions",
}
"""Scans that can be read and are wrong: inspect says so, and exits with 0."""


def rows() -> list[tuple[str, str]]:
    """Command line and message of each row of the catalogue."""
    found: list[tuple[str, str]] = []
    for line in CATALOGUE.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        elif line.startswith(" "):
            command, message = found.pop()
            found.append((command, f"{message} {line.strip()}".strip()))
    return found


class NoWork:
    """A backend in which no work may begin: input is refused before."""

    name = "torch"

    def versions(self) -> dict[str, str]:
        return {}

    def device(self, *_: Any, **__: Any) -> str:
        return "cpu"

    def load(self, path: Path) -> Bundle:
        content = read_bundle(path)
        model = SimpleNamespace(config=content.config, infers_whole_canvas=False)
        return Bundle(model=model, mean_counts=content.mean_counts, provenance=content.provenance)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"work began: {name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wrong files; no row may change them."""
    folder = tmp_path_factory.mktemp("wrong")
    make_wrong_files(folder, small_scan())
    return folder


@pytest.fixture(autouse=True)
def program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the current one; the only backend has the real workflows, and refuses to work."""
    monkeypatch.chdir(folder)
    worker = NoWork()
    offered = SimpleNamespace(
        create_training_payload=payloads.training_payload,
        create_inference_payload=partial(payloads.inference_payload, load_bundle=worker.load),
        train=partial(workflows.train, worker),
        infer=partial(workflows.infer, worker),
        reconstruct=partial(workflows.reconstruct, worker),
        evaluate=partial(workflows.evaluate_scan, worker),
    )

    class Entry(EntryPoint):
        def load(self) -> Any:
            return offered

    entry = Entry(name="torch", value="none", group=backends.GROUP)
    monkeypatch.setattr(backends, "entry_points", lambda *, group: [entry])


def says(shown: str, message: str) -> None:
    """Assert that a text has the parts of a message in their order."""
    text, place = " ".join(shown.split()), 0
    for part in message.split(" ... "):
        found = text.find(part, place)
        assert found >= 0, f"{part!r} is not in its place in: {text}"
        place = found + len(part)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(("command", "message"), rows(), ids=[command for command, _ in rows()])
def test_wrong_use_is_exit_2_and_says_what_where_and_how_to_mend_it(folder, tmp_path, capsys, command, message):
    """CLI-62: short, in the words of its user; nothing that was there is touched."""
    before = state(folder)
    assert main(shlex.split(command.replace("OUT", str(tmp_path / "new")))) == 2
    shown = capsys.readouterr()
    error = shown.err[shown.err.index("ptycho-cli: error: ") :]
    says(error.replace(str(tmp_path), ""), message)
    assert len(error) - error.count(str(tmp_path)) * len(str(tmp_path)) <= LONGEST, error
    assert not [word for word in NEVER if word in error], error
    assert state(folder) == before


@pytest.mark.parametrize(("name", "message"), READ_AND_WRONG.items())
def test_inspect_says_what_is_wrong_with_a_scan_that_can_be_read(folder, capsys, name, message):
    assert main(["inspect", name]) == 0
    says(capsys.readouterr().out, message)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("frame.tif", "tifffile", "tiff"), ("frame.cbf", "fabio", "fabio")]
)
def test_a_missing_extra_is_named(folder, tmp_path, capsys, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["import", name, "positions.csv", str(tmp_path / "new.npz")]) == 2
    says(
        capsys.readouterr().err,
        f"{name}: expected the reader of ... found none installed; pip install 'ptycho-data[{extra}]'",
    )


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(folder, tmp_path, capsys, monkeypatch):
    """By its permission, which the test denies: the superuser's are never refused."""
    monkeypatch.setattr("ptycho_cli.output.publish.os.access", lambda path, mode: False)
    assert main(["train", "scan.npz", "--output-dir", str(tmp_path)]) == 2
    says(capsys.readouterr().err, "--output-dir: expected a writable folder ... choose another")


def test_the_catalogue_is_long_and_has_no_row_twice():
    commands = [command for command, message in rows() if message]
    assert len(set(commands)) == len(commands) >= 200
