"""Exit codes, the one line on stderr, and what a failed run leaves behind (specs/cli.md, CLI-20 to CLI-33)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.files import write_scan
from ptycho_data.simulate import simulate

pytestmark = pytest.mark.usefixtures("undrawn")

BAD = {
    "no command line": ([], "no command given"),
    "unknown command": (["trian"], "trian"),
    "no data": (["train", "--output-dir", "{out}"], "at least one DATA file"),
    "no output folder": (["train", "{data}"], "train: expected --output-dir, which is required"),
    "a flag without its value": (["train", "{data}", "--output-dir"], "--output-dir: expected a value after it"),
    "unknown flag": (["train", "{data}", "--output-dir", "{out}", "--epoch", "3"], "--epoch"),
    "not a number": (["train", "{data}", "--output-dir", "{out}", "--epochs", "many"], "--epochs"),
    "illegal choice": (["train", "{data}", "--output-dir", "{out}", "--loss", "mse"], "--loss"),
    "illegal value": (["train", "{data}", "--output-dir", "{out}", "--epochs", "0"], "training.epochs"),
    "options that exclude each other": (
        ["train", "{data}", "--output-dir", "{out}", "--prefetch-factor", "2"],
        "execution.prefetch_factor",
    ),
    "missing data": (["train", "{missing}", "--output-dir", "{out}"], "Training data file not found: {missing}"),
    "missing validation": (
        ["train", "{data}", "--output-dir", "{out}", "--validation", "{missing}"],
        "Validation file not found: {missing}",
    ),
    "missing model to start from": (
        ["train", "{data}", "--output-dir", "{out}", "--start-from", "{missing}"],
        "Model archive not found: {missing}",
    ),
    "data of no known format": (["train", "{text}", "--output-dir", "{out}"], "a scan in a known format"),
    "data is a folder": (["train", "{folder}", "--output-dir", "{out}"], "{folder}"),
    "output is a file": (["train", "{data}", "--output-dir", "{text}"], "the file {text}"),
    "output below a file": (["train", "{data}", "--output-dir", "{text}/out"], "the file {text}"),
    "missing configuration": (["train", "{data}", "--output-dir", "{out}", "--config", "{missing}"], "{missing}"),
    "backend not installed": (["train", "{data}", "--output-dir", "{out}", "--backend", "tf"], "'tf' installed"),
    "backend by its other name": (
        ["train", "{data}", "--output-dir", "{out}", "--backend", "tensorflow"],
        "backend 'tf' installed",
    ),
    "unknown backend": (["train", "{data}", "--output-dir", "{out}", "--backend", "jax"], "--backend"),
    "missing model": (["infer", "{missing}", "{data}", "--output-dir", "{out}"], "Model archive not found: {missing}"),
    "missing scan to infer": (["infer", "{text}", "{missing}", "--output-dir", "{out}"], "Data file not found"),
    "missing scan to reconstruct": (["reconstruct", "{missing}", "--output-dir", "{out}"], "Data file not found"),
    "illegal modes": (["reconstruct", "{data}", "--output-dir", "{out}", "--modes", "0"], "reconstruction.modes"),
    "nothing to inspect": (["inspect", "{missing}"], "File not found: {missing}"),
    "inspect what nobody reads": (["inspect", "{text}"], "a scan in a known format"),
    "simulate into a folder": (["simulate", "{folder}"], "{folder}"),
    "simulate with a wrong suffix": (["simulate", "{out}.h6"], "a name ending in .npz"),
    "simulate with a bad seed": (["simulate", "{out}.npz", "--seed", "-1"], "--seed"),
    "simulate without patterns": (["simulate", "{out}.npz", "--patterns", "0", "--quiet"], "n_patterns"),
    "simulate with a missing probe": (["simulate", "{out}.npz", "--probe-file", "{missing}"], "Probe file not found"),
    "nothing to evaluate": (["evaluate"], "IMAGE with --truth, or --scan"),
    "an image without truth": (["evaluate", "{data}"], "--truth beside IMAGE"),
    "an image and a scan": (["evaluate", "{data}", "--scan", "{data}"], "leave one of them out"),
    "a scan with a truth": (["evaluate", "--scan", "{data}", "--truth", "{data}"], "no --truth beside --scan"),
    "a truth alone": (["evaluate", "--truth", "{data}"], "only --truth"),
    "joint reconstruction beside a truth": (
        ["evaluate", "{data}", "--truth", "{data}", "--epochs", "3", "--modes", "2"],
        "reconstruction.epochs: expected an option that has an effect, found 3, which has none: "
        "evaluate beside a truth does not read it",
    ),
    "a backend beside a truth": (["evaluate", "{data}", "--truth", "{data}", "--backend", "torch"], "--backend out"),
    "a missing image and truth": (["evaluate", "{missing}", "--truth", "{missing}"], "Image not found: {missing}"),
    "a scan as image": (["evaluate", "{data}", "--truth", "{data}"], "the keys object, origin_yx_px"),
    "a missing scan to evaluate": (["evaluate", "--scan", "{missing}"], "Data file not found: {missing}"),
    "evaluate into a file": (["evaluate", "--scan", "{data}", "--output-dir", "{text}"], "the file {text}"),
    "evaluate with illegal modes": (["evaluate", "--scan", "{data}", "--modes", "9"], "reconstruction.modes"),
    "too little to halve": (["evaluate", "--scan", "{data}", "--hold-out", "0.5"], "at least 8 patterns"),
    "nothing to convert": (["convert", "{missing}", "{out}.npz"], "File not found: {missing}"),
    "convert what nobody reads": (["convert", "{text}", "{out}.npz"], "a scan in a known format"),
    "convert to an unknown suffix": (["convert", "{data}", "{out}.xyz"], ".npz for npz"),
    "convert to an unknown format": (["convert", "{data}", "{out}.npz", "--format", "ptyd"], "--format"),
    "convert onto itself": (["convert", "{data}", "{data}"], "another file than IN"),
    "convert into a folder": (["convert", "{data}", "{folder}"], "a folder"),
    "convert without a set-up": (["convert", "{data}", "{out}.h5"], "give them: --geometry KEY=VALUE"),
    "bad words of a set-up": (["convert", "{data}", "{out}.h5", "--geometry", "energy"], "KEY=VALUE"),
    "an unknown scalar": (["convert", "{data}", "{out}.h5", "--geometry", "energy=1"], "photon_energy_ev"),
    "a companion for a whole scan": (
        ["convert", "{data}", "{out}.npz", "--companion", "{data}"],
        "no second file beside",
    ),
    "a missing companion": (["inspect", "{data}", "--companion", "{missing}"], "Companion not found: {missing}"),
    "inspect a pipe": (["inspect", "{pipe}"], "found no regular file"),
    "inspect a device": (["inspect", "/dev/zero"], "found no regular file"),
    "inspect a device as a bundle": (["inspect", "{zero}"], "found no regular file"),
    "convert a pipe": (["convert", "{pipe}", "{out}.npz"], "found no regular file"),
    "convert with a pipe": (["convert", "{data}", "{out}.npz", "--companion", "{pipe}"], "found no regular file"),
    "compare with a pipe": (["evaluate", "{pipe}", "--truth", "{data}"], "found no regular file"),
    "an endless name": (["inspect", "{long}"], "File not found"),
    "an endless target": (["convert", "{data}", "{long}.npz"], "too long"),
    "an endless output folder": (["train", "{data}", "--output-dir", "{long}"], "too long"),
    "a deep configuration": (["train", "{data}", "--output-dir", "{out}", "--config", "{deep}"], "a TOML file"),
    "demo without time": (["demo", "--output-dir", "{out}", "--max-seconds", "1"], "--max-seconds"),
    "demo into a file": (["demo", "--output-dir", "{text}"], "the file {text}"),
}


@pytest.fixture
def paths(tmp_path: Path, data_file: Path) -> dict[str, str]:
    """Names that the cases use."""
    text = tmp_path / "notes.txt"
    text.write_text("not a scan\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 900 + "]" * 900)
    names = {
        "pipe": tmp_path / "pipe.npz",
        "zero": tmp_path / "zero.safetensors",
        "deep": tmp_path / "deep.toml",
        "long": tmp_path / ("x" * 300),
        "data": data_file,
        "text": text,
        "folder": folder,
        "out": tmp_path / "out",
        "missing": tmp_path / "none.npz",
    }
    return {name: str(path) for name, path in names.items()}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_2_and_one_line_that_says_why(backend, paths, capsys, case):
    """CLI-30, CLI-31; no work is done and no folder made (CLI-21)."""
    argv, reason = BAD[case]
    assert main([word.format(**paths) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ptycho-cli: error: ")
    assert err.count("\n") == 1
    assert reason.format(**paths) in err
    assert "Traceback" not in err
    assert not {"train", "infer", "reconstruct"} & set(backend.calls)
    assert not Path(paths["out"]).exists()


def test_texts_of_strangers_cannot_steer_the_terminal(backend, tmp_path, capsys):
    """CLI-38: what a file says is shown with its control characters spelled out, on both streams."""
    path = tmp_path / "a.npz"
    scan = simulate(N=16, n_patterns=6, seed=0)
    steering = "\x1b[2J\x07\u202eevil\x9b0m\r"
    write_scan(path, replace(scan, metadata={**scan.metadata, "convention": steering}))
    with np.load(path) as held:
        arrays = dict(held)
    for name, value in (("metadata", json.dumps({"note\x1b[2J": steering})), ("measurement", steering)):
        np.savez(path, **{**arrays, name: value})
        main(["inspect", str(path)])
        shown = capsys.readouterr()
        for text in (shown.out, shown.err):
            assert all(one.isprintable() for line in text.split("\n") for one in line), text
        assert "x1b[2J" in shown.out + shown.err


def test_all_missing_files_are_named_at_once(backend, tmp_path, capsys):
    """CLI-31."""
    assert main(["infer", str(tmp_path / "a"), str(tmp_path / "b"), "--output-dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "Model archive not found" in err
    assert "Data file not found" in err


def test_a_remedy_of_all_problems_is_given_once(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-31."""
    same = [Problem(name, "checkpoint.other", "1", "2", "restart") for name in ("seed", "epochs")]
    for problems, line in (
        (same, "2 problems: seed: expected 1, found 2 | epochs: expected 1, found 2; restart [checkpoint.other]"),
        ([same[0]], "seed: expected 1, found 2; restart [checkpoint.other]"),
        (
            [same[0], replace(same[1], remedy="wait")],
            "2 problems: seed: expected 1, found 2; restart [checkpoint.other] | "
            "epochs: expected 1, found 2; wait [checkpoint.other]",
        ),
    ):
        error = ContractError(problems)

        def refuse(*args, error=error, **options):
            raise error

        monkeypatch.setattr(backend, "reconstruct", refuse)
        assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet"]) == 2
        assert capsys.readouterr().err == f"ptycho-cli: error: {line}\n"


@pytest.mark.parametrize("command", ["train", "infer", "reconstruct"])
def test_failed_work_is_exit_1_and_leaves_earlier_results_as_they_were(
    backend, work_failed, data_file, tmp_path, capsys, command
):
    """CLI-20, CLI-30."""
    out = tmp_path / "out"
    out.mkdir()
    before = {}
    for name in ("object.npz", "amplitude.png", "phase.png", "summary.json", "model.safetensors"):
        (out / name).write_bytes(name.encode())
        before[name] = name.encode()
    backend.error = work_failed
    files = [str(data_file)] * (2 if command == "infer" else 1)
    assert main([command, *files, "--output-dir", str(out), "--overwrite"]) == 1
    err = capsys.readouterr().err
    assert err == f"ptycho-cli: error: {work_failed}\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failure_while_writing_leaves_no_partial_file(backend, data_file, tmp_path, monkeypatch, capsys):
    """CLI-20: the disk fills while the pictures are drawn."""
    from ptycho_cli.plots import reconstructions as pictures

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "draw_run", full)
    out = tmp_path / "out"
    assert main(["reconstruct", str(data_file), "--output-dir", str(out), "--quiet"]) == 1
    assert not out.exists()
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError])
def test_a_path_that_cannot_be_opened_is_exit_2(backend, data_file, tmp_path, capsys, kind):
    """CLI-32."""
    backend.error = kind(1, "cannot be opened", "/some/path")
    assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "/some/path: expected a path that can be used, found cannot be opened" in err
    assert err.count("\n") == 1


def test_an_unexpected_error_is_exit_1_with_its_type(backend, data_file, tmp_path, capsys):
    """CLI-32."""
    backend.error = ValueError("two\nlines")
    assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "ptycho-cli: error: ValueError: two lines (--debug shows the traceback)\n"


def test_interruption_is_exit_130(backend, data_file, tmp_path, capsys):
    """CLI-30."""
    backend.error = KeyboardInterrupt()  # type: ignore[assignment]
    assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "ptycho-cli: error: interrupted; results are as they were before\n"


@pytest.mark.parametrize("place", [0, 1, -1])
def test_debug_shows_the_traceback(backend, paths, capsys, place):
    """CLI-31: at any position of the flag."""
    argv = ["infer", paths["missing"], paths["data"], "--output-dir", paths["out"]]
    argv.insert(len(argv) if place == -1 else place, "--debug")
    assert main(argv) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_progress_is_one_line_per_stage_and_quiet_silences_all(backend, data_file, tmp_path, capsys):
    """CLI-24; quiet hands no callback to the backend."""
    argv = ["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    loud = capsys.readouterr()
    assert loud.err == "working: 2/2 steps, 0.0 s\n"
    assert loud.out == f"wrote {tmp_path / 'out' / 'object.npz'}; residual used 0.2500\n"
    assert main([*argv, "--quiet", "--overwrite"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    assert backend.calls["reconstruct"]["progress"] is None


def test_summary_says_who_ran_what_on_which_data(backend, data_file, tmp_path):
    """CLI-22: strict JSON; a number that is not finite is null."""
    import hashlib

    out = tmp_path / "out"
    argv = ["train", str(data_file), "--output-dir", str(out), "--epochs", "3"]
    assert main(argv) == 0
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["command"] == ["ptycho-cli", *argv]
    assert summary["inputs"] == [
        {
            "path": str(data_file),
            "bytes": data_file.stat().st_size,
            "sha256": hashlib.sha256(data_file.read_bytes()).hexdigest(),
        }
    ]
    page = hashlib.sha256((out / "report.html").read_bytes()).hexdigest()
    assert summary["outputs"] == {"model.safetensors": hashlib.sha256(b"weights").hexdigest(), "report.html": page}
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["residual"] == {"used": 0.25, "held_out": None}


def run(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program, or code, in its own process."""
    start = ["-c", code] if code else ["-m", "ptycho_cli"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, *start, *words], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], ["trian"]])
def test_help_imports_no_backend_and_nothing_heavy(words):
    """Invariant 32 (CLI-33)."""
    code = (
        "import sys\nfrom ptycho_cli.main import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'tensorflow', 'lightning', 'matplotlib', 'scipy', 'h5py', 'skimage', 'numpy.random'}\n"
        "found = sorted(heavy & set(sys.modules))\nprint('HEAVY', found)\n"
    )
    done = run(*words, code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_the_program_exits_with_the_code_and_shows_deprecations_as_one_line(tmp_path):
    """CLI-6, CLI-30, in a real process."""
    done = run("train", str(tmp_path / "none.npz"), "--output-dir", str(tmp_path / "out"), "--device", "cpu")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == "ptycho-cli: warning: --device is deprecated; use --accelerator"
    assert second.startswith("ptycho-cli: error: Training data file not found")
    assert run("--help").returncode == 0
    assert run().returncode == 2
