"""What exists is overwritten only where that was asked for (specs/cli.md, CLI-45)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_cli.output import publish
from ptycho_cli.plots import reconstructions
from ptycho_data.files import read_scan, write_reconstruction, write_scan

WORDS = ["--geometry", "photon_energy_ev=8800", "--geometry", "detector_distance_m=2"]
SIMULATED = ["--N", "16", "--patterns", "9", "--step-px", "2", "--quiet"]
PICTURES = ("amplitude.png", "phase.png", "coverage.png", "probe.png", "losses.png")
IMAGE = ("summary.json", "object.npz", *PICTURES, "report.html")
EVALUATION = ("evaluation.json", "comparison.png", "frc.png", "convergence.png", "prior.png", "report.html")
NAMES = {
    "train": ("summary.json", "model.safetensors", "report.html", "checkpoints/training.safetensors"),
    "infer": IMAGE,
    "infer --refine": (*IMAGE, "checkpoints/joint_fit.safetensors"),
    "reconstruct --format": (*IMAGE, "object.tif"),
    "reconstruct": (*IMAGE, "checkpoints/joint_fit.safetensors"),
    "evaluate": EVALUATION,
    "evaluate --scan": EVALUATION,
    "inspect": ("mean_pattern.png", "positions.png", "probe.png"),
}
"""What each command may write, below its folder."""


@pytest.fixture
def _quick_pictures(monkeypatch):
    """Pictures that take no time."""

    def draw(_, summary, folder):
        for name in IMAGE:
            if name.endswith(".png") and (name != "losses.png" or summary.get("losses")):
                (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + 8 * name.encode())

    monkeypatch.setattr(reconstructions, "draw_run", draw)


@pytest.fixture
def words(tmp_path, data_file, reconstruction):
    """A command line into the folder ``out``."""
    model, image = tmp_path / "model.safetensors", tmp_path / "image.npz"
    model.write_bytes(b"a bundle")
    write_reconstruction(image, reconstruction)
    inputs = {
        "train": ["train", data_file],
        "infer": ["infer", model, data_file],
        "infer --refine": ["infer", model, data_file, "--refine", "2"],
        "reconstruct": ["reconstruct", data_file],
        "reconstruct --format": ["reconstruct", data_file, "--format", "tiff"],
        "evaluate": ["evaluate", image, "--truth", image],
        "evaluate --scan": ["evaluate", "--scan", data_file, "--epochs", "2"],
        "inspect": ["inspect", data_file],
    }
    return lambda name, *more: [*map(str, inputs[name]), "--output-dir", str(tmp_path / "out"), *more]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(argv, capsys) -> str:
    """The one line of a command that is refused."""
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "output.exists" in said.err
    assert "--overwrite" in said.err
    return said.err


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in NAMES for name in NAMES[command]])
def test_whatever_a_run_would_write(command, name, words, backend, tmp_path, capsys):
    """Refused before any work, naming it; nothing changes."""
    standing = tmp_path / "out" / name
    standing.parent.mkdir(parents=True)
    standing.write_bytes(b"of mine")
    said = refused(words(command), capsys)
    assert str(tmp_path / "out") in said
    assert name in said
    assert backend.calls == {}
    assert content(tmp_path / "out") == {name: b"of mine"}


@pytest.mark.parametrize("command", sorted(set(NAMES) - {"evaluate --scan"}))
def test_a_second_run_into_a_folder(command, words, backend, tmp_path, capsys):
    """Its own results, all of them, are among the names; with --overwrite it replaces them."""
    assert main(words(command)) == 0, capsys.readouterr().err
    before = content(tmp_path / "out")
    assert before
    assert set(before) <= set(NAMES[command])
    backend.calls.clear()
    refused(words(command), capsys)
    assert backend.calls == {}
    assert content(tmp_path / "out") == before
    assert main(words(command, "--overwrite")) == 0
    assert set(content(tmp_path / "out")) == set(before)


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize("command", ["train", "infer --refine", "reconstruct"])
def test_the_state_of_an_unfinished_run_is_work_too(command, words, backend, tmp_path, capsys):
    """CLI-27: it can be continued; and a run that may replace it removes it in the end."""
    state = tmp_path / "out" / NAMES[command][-1]
    for word in ("--resume", "--overwrite"):
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_bytes(b"hours of work")
        said = refused(words(command), capsys)
        assert "--resume continues it" in said
        backend.error = RuntimeError("out of memory")
        assert main(words(command, word)) == 1
        assert state.read_bytes() == b"hours of work"
        backend.error = None
        assert main(words(command, word)) == 0
        assert not state.parent.exists()
        for path in (tmp_path / "out").iterdir():
            path.unlink()


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize("command", ["train", "infer", "reconstruct"])
def test_a_run_that_fails_leaves_the_earlier_results_whole(command, words, backend, tmp_path, capsys):
    assert main(words(command)) == 0
    before = content(tmp_path / "out")
    backend.error = RuntimeError("out of memory")
    assert main(words(command, "--overwrite")) == 1
    assert content(tmp_path / "out") == before
    assert main(["inspect", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("_quick_pictures")
def test_files_of_the_earlier_set_that_the_new_one_lacks_go(words, backend, reconstruction, tmp_path, capsys):
    """As far as the earlier summary names them, and they are as it says; files of other people stay."""
    out = tmp_path / "out"
    run, reported = backend.reconstruct, {"losses": [0.2, 0.1], "stopped_by": "epochs"}
    backend.reconstruct = lambda *args, **options: (run(*args, **options)[0], {"seed": 0, **reported})
    assert main(words("reconstruct")) == 0
    assert (out / "losses.png").exists()
    for name in ("notes.txt", "prior.png"):
        (out / name).write_bytes(b"mine")
    reported.clear()
    assert main(words("reconstruct", "--overwrite")) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {*IMAGE, "notes.txt", "prior.png"} - {"losses.png"}
    assert (out / "notes.txt").read_bytes() == (out / "prior.png").read_bytes() == b"mine"
    assert main(["inspect", str(out)]) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("_quick_pictures")
def test_a_file_that_is_not_as_the_earlier_summary_says_stays(words, backend, tmp_path):
    """Somebody put it there since."""
    out = tmp_path / "out"
    assert main(words("reconstruct")) == 0
    summary = json.loads((out / "summary.json").read_text())
    summary["outputs"] |= {"mine.png": hashlib.sha256(b"as it was").hexdigest(), "../escaped": "0", "gone.png": "0"}
    (out / "summary.json").write_text(json.dumps(summary))
    (out / "mine.png").write_bytes(b"as it is")
    escaped = tmp_path / "escaped"
    escaped.write_bytes(b"mine")
    assert main(words("train", "--overwrite")) == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "summary.json", "report.html", "mine.png"}
    assert escaped.exists()


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"outputs": []}', '{"outputs": {"object.npz": 1}}', "\x00\xff"])
def test_a_summary_that_says_nothing_removes_nothing(text, words, backend, tmp_path):
    out = tmp_path / "out"
    assert main(words("reconstruct")) == 0
    (out / "summary.json").write_text(text, encoding="latin-1")
    assert main(words("train", "--overwrite")) == 0
    assert {path.name for path in out.iterdir()} == {*IMAGE, "model.safetensors"} - {"losses.png"}


@pytest.mark.usefixtures("_quick_pictures")
def test_they_go_before_the_summary_comes(words, backend, tmp_path, monkeypatch, capsys):
    """A run that is killed in between leaves what `inspect` tells."""
    out, moved = tmp_path / "out", publish.move_into_place
    assert main(words("reconstruct")) == 0

    def killed(temporary, path):
        if path.name == "summary.json":
            raise KeyboardInterrupt
        moved(temporary, path)

    monkeypatch.setattr(publish, "move_into_place", killed)
    assert main(words("train", "--overwrite")) == 130
    assert not (out / "object.npz").exists()
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 2
    assert "results.mixed" in capsys.readouterr().err


@pytest.mark.usefixtures("_quick_pictures")
def test_an_evaluation_goes_beside_the_image_that_it_scores(words, backend, tmp_path):
    """CLI-18: of the two sets neither is in the other's way, and neither removes the other's files."""
    out = tmp_path / "out"
    assert main(words("reconstruct")) == 0
    assert main(words("evaluate")) == 0
    both = set(content(out))
    assert main(words("reconstruct", "--overwrite")) == 0
    assert main(words("evaluate", "--overwrite")) == 0
    assert set(content(out)) == both


@pytest.mark.parametrize("kind", ["a file", "a broken link"])
@pytest.mark.parametrize("command", ["simulate", "convert", "convert an image", "import"])
def test_files(command, kind, data_file, reconstruction, tmp_path, capsys):
    """`simulate`, `convert` and `import` write one file, the last with a mapping."""
    target, image = tmp_path / "target.npz", tmp_path / "object.npz"
    write_reconstruction(image, reconstruction)
    argv = {
        "simulate": ["simulate", target, *SIMULATED],
        "convert": ["convert", data_file, target, "--quiet"],
        "convert an image": ["convert", image, target.with_suffix(".h5"), *WORDS, "--quiet"],
        "import": ["import", data_file, target, "--quiet"],
    }[command]
    if command == "convert an image":
        argv += ["--geometry", "detector_pixel_size_m=75e-6"]
        target = target.with_suffix(".h5")
    argv = list(map(str, argv))
    if kind == "a file":
        target.write_bytes(b"of mine")
    else:
        target.symlink_to(tmp_path / "nothing")
    assert str(target) in refused(argv, capsys)
    assert target.is_symlink() == (kind != "a file")
    assert kind != "a file" or target.read_bytes() == b"of mine"
    assert main([*argv, "--overwrite"]) == 0, capsys.readouterr().err
    assert target.is_file()
    assert target.stat().st_size > 100


@pytest.mark.usefixtures("_quick_pictures")
def test_the_demo_replaces_what_an_earlier_demo_left(backend, tmp_path, monkeypatch, capsys):
    """Only that: as soon as one file is another's, it asks."""
    demo = import_module("ptycho_cli.commands.demo")
    monkeypatch.setattr(demo, "PATTERNS", 9)
    monkeypatch.setattr(demo, "SIDE_PX", 16)
    monkeypatch.setattr(demo, "STEP_PX", 2.0)

    def inferred(payload, **_):
        scan = backend.calls["payload"]["data"]
        truth, origin = scan.object_truth, scan.object_origin_yx_px
        weight = np.ones(truth.shape, np.float32)
        return replace(backend.result, object=truth, weight=weight, origin_yx_px=origin), {"seed": 0}

    monkeypatch.setattr(backend, "infer", inferred)
    out = tmp_path / "demo"
    argv = ["demo", "--output-dir", str(out), "--quiet"]
    assert main(argv) == 0, capsys.readouterr().err
    assert main(argv) == 0, capsys.readouterr().err
    assert main(["inspect", str(out)]) == 0
    (out / "notes.txt").write_text("mine")
    assert main(argv) == 0
    assert (out / "notes.txt").exists()
    for name in ("train.npz", "report.md", "model/model.safetensors", "image/object.npz"):
        kept = (out / name).read_bytes()
        (out / name).write_bytes(b"of mine")
        assert name in refused(argv, capsys)
        assert (out / name).read_bytes() == b"of mine"
        (out / name).write_bytes(kept)
    assert main(argv) == 0
    (out / "summary.json").unlink()
    refused(argv, capsys)
    assert main([*argv, "--overwrite"]) == 0


@pytest.mark.usefixtures("_quick_pictures")
def test_the_demo_is_not_taken_in_by_results_of_other_commands(words, backend, tmp_path, capsys):
    assert main(words("reconstruct")) == 0
    before = content(tmp_path / "out")
    refused(["demo", "--output-dir", str(tmp_path / "out"), "--quiet"], capsys)
    assert content(tmp_path / "out") == before


def test_a_file_that_is_written_by_name_keeps_its_content_if_the_work_fails(data_file, tmp_path, monkeypatch):
    from ptycho_data import files

    target = tmp_path / "target.npz"
    write_scan(target, read_scan(data_file))
    before = target.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert main(["convert", str(data_file), str(target), "--overwrite", "--quiet"]) == 1
    assert main(["simulate", str(target), "--overwrite", *SIMULATED]) == 1
    assert target.read_bytes() == before
    assert files.read_scan(target) is not None
