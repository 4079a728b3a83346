"""One command on several scans (specs/cli.md, CLI-52)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.commands.several_scans import folder_names
from ptycho_cli.main import main
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.checks.advice import standing
from ptycho_data.files import write_scan


@pytest.fixture
def scans(data_file, tmp_path) -> list[Path]:
    """Three files of the small scan."""
    paths = [tmp_path / "data" / f"run{number}.npz" for number in (1, 2, 3)]
    paths[0].parent.mkdir()
    for path in paths:
        shutil.copy(data_file, path)
    return paths


@pytest.fixture
def counting(backend, monkeypatch):
    """The backend, which counts how often it opens a model, and keeps the models that its work is given."""
    backend.loads, backend.models = [], []
    payload = backend.create_inference_payload

    def load(path):
        backend.loads.append(path)
        return "the open model"

    def create(model, *rest, **options):
        backend.models.append(model)
        return payload(model, *rest, **options)

    monkeypatch.setattr(backend, "load", load, raising=False)
    monkeypatch.setattr(backend, "create_inference_payload", create)
    return backend


def table_of(text: str) -> list[list[str]]:
    """Cells of the table, which two blanks part."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def words(command: str, tmp_path: Path, *data: Path) -> list[str]:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    first = [command, str(model)] if command == "infer" else [command]
    return [*first, *map(str, data), "--output-dir", str(tmp_path / "out")]


@pytest.mark.parametrize("command", ["infer", "reconstruct"])
def test_each_has_its_folder_and_a_row(counting, scans, tmp_path, capsys, command):
    """Results, summaries and inputs as those of a run alone; one table, nothing else on stdout."""
    assert main(words(command, tmp_path, *scans)) == 0
    captured = capsys.readouterr()
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["run1", "run2", "run3"]
    rows = table_of(captured.out)
    assert rows[0] == ["file", "verdict", "R", "floor", "seconds", "folder"]
    for row, path in zip(rows[1:], scans, strict=True):
        assert row[:4] == [path.name, "unknown", "0.25", "-"]
        assert row[5] == str(out / path.stem)
        summary = json.loads((out / path.stem / "summary.json").read_text())
        assert str(path) in [entry["path"] for entry in summary["inputs"]]
        assert (out / path.stem / "object.npz").is_file()
    assert [line for line in captured.err.splitlines() if line.startswith("scan ")] == [
        f"scan {number} of 3: {path}" for number, path in enumerate(scans, start=1)
    ]
    assert counting.models == (["the open model"] * 3 if command == "infer" else [])
    assert len(counting.loads) == (command == "infer")


def test_a_folder_stands_for_its_scans(counting, scans, tmp_path, capsys):
    """In the order of their names; other files are none of them."""
    (scans[0].parent / "notes.txt").write_text("x")
    (scans[0].parent / ".hidden.npz").write_bytes(b"x")
    assert main(words("reconstruct", tmp_path, scans[0].parent, scans[1])) == 0
    assert [row[0] for row in table_of(capsys.readouterr().out)[1:]] == ["run1.npz", "run2.npz", "run3.npz"]


def test_a_folder_of_one_has_a_folder_for_it(counting, scans, tmp_path, capsys):
    """Tomorrow there are two."""
    for path in scans[1:]:
        path.unlink()
    assert main(words("reconstruct", tmp_path, scans[0].parent)) == 0
    assert (tmp_path / "out" / "run1" / "object.npz").is_file()


def test_one_file_writes_into_the_folder_itself(counting, scans, tmp_path, capsys):
    """As ever; no table."""
    assert main(words("infer", tmp_path, scans[0])) == 0
    assert (tmp_path / "out" / "object.npz").is_file()
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out' / 'object.npz'}; residual used 0.2500\n"
    assert counting.loads == []


@pytest.mark.parametrize("quiet", [False, True])
def test_it_goes_on_after_a_failure(counting, scans, tmp_path, capsys, quiet):
    """The second file is no scan; the others have their results, and the exit code says that one has not."""
    scans[1].write_bytes(b"no scan at all")
    argv = words("infer", tmp_path, *scans) + (["--quiet"] if quiet else [])
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run1", "run3"]
    last = captured.err.splitlines()[-1]
    assert last.startswith(
        f"ptycho-cli: error: {tmp_path / 'out'}: expected an image of each scan, found 1 of 3 failed: "
    )
    assert "scans.failed" in last
    if quiet:
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "run2.npz: " in last
        assert "file.format" in last
    else:
        failed = table_of(captured.out)[2]
        assert failed[:4] == ["run2.npz", "failed", "-", "-"]
        assert "file.format" in failed[5]


def test_an_unexpected_error_of_one_scan_is_a_row_too(counting, scans, tmp_path, capsys):
    counting.error = ValueError("two\nlines")
    assert main(words("reconstruct", tmp_path, *scans)) == 1
    rows = table_of(capsys.readouterr().out)
    assert [row[-1] for row in rows[1:]] == ["ValueError: two lines"] * 3
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_ctrl_c_ends_all_and_shows_what_is_done(counting, scans, tmp_path, capsys, monkeypatch):
    calls = []

    def work(progress):
        calls.append(progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(counting, "_work", work)
    assert main(words("reconstruct", tmp_path, *scans)) == 130
    assert [row[0] for row in table_of(capsys.readouterr().out)] == ["file", "run1.npz"]
    assert len(calls) == 2
    assert (tmp_path / "out" / "run1" / "object.npz").is_file()


def test_resume_leaves_what_is_done(counting, scans, tmp_path, capsys):
    """The first has results, the second a checkpoint, the third nothing."""
    argv = words("reconstruct", tmp_path, *scans)
    assert main([*argv[:2], *argv[-2:]]) == 0
    (tmp_path / "out" / "run1").mkdir()
    for path in list((tmp_path / "out").glob("*.*")):
        path.rename(tmp_path / "out" / "run1" / path.name)
    checkpoint = tmp_path / "out" / "run2" / "checkpoints" / "joint_fit.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"a state")
    before = (tmp_path / "out" / "run1" / "summary.json").read_bytes()
    capsys.readouterr()
    resumed = []
    reconstruct = counting.reconstruct
    counting.reconstruct = lambda scan, **options: (resumed.append(options["resume"]), reconstruct(scan, **options))[1]
    assert main([*argv, "--resume"]) == 0
    assert resumed == [True, False]
    assert (tmp_path / "out" / "run1" / "summary.json").read_bytes() == before
    assert [row[0] for row in table_of(capsys.readouterr().out)[1:]] == ["run1.npz", "run2.npz", "run3.npz"]


def test_resume_takes_up_what_the_time_limit_ended(counting, scans, tmp_path, capsys):
    """CLI-27: such a run keeps its checkpoint beside its results, so that it may be given more time."""
    argv = words("reconstruct", tmp_path, *scans[:2])
    assert main(argv) == 0
    checkpoint = tmp_path / "out" / "run2" / "checkpoints" / "joint_fit.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"a state")
    resumed, reconstruct = [], counting.reconstruct
    counting.reconstruct = lambda scan, **options: (resumed.append(options["resume"]), reconstruct(scan, **options))[1]
    assert main([*argv, "--resume"]) == 0
    assert resumed == [True]


@pytest.mark.parametrize("command", ["infer", "reconstruct"])
def test_results_of_each_are_replaced_only_if_asked(counting, scans, tmp_path, capsys, command):
    """CLI-45: a folder that holds results is refused as that of one scan; a new scan beside it has its turn."""
    argv = words(command, tmp_path, *scans)
    assert main([*argv[:-3], *argv[-2:]]) == 0
    earlier = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    capsys.readouterr()
    assert main(argv) == 1
    rows = table_of(capsys.readouterr().out)[1:]
    assert ["output.exists" in row[-1] for row in rows] == [True, True, False]
    assert {path: path.stat().st_ino for path in earlier} == earlier
    assert (tmp_path / "out" / "run3" / "object.npz").is_file()
    assert main([*argv, "--overwrite"]) == 0
    summaries = [path for path in earlier if path.name == "summary.json"]
    assert len(summaries) == 2
    assert all(path.stat().st_ino != earlier[path] for path in summaries)


def test_each_has_its_own_time(counting, scans, tmp_path, capsys):
    """``--max-seconds`` counts from the beginning of each: the second ends later, by what the first took."""
    ends, reconstruct = [], counting.reconstruct
    counting.reconstruct = lambda scan, **options: (ends.append(options["deadline"]), reconstruct(scan, **options))[1]
    assert main([*words("reconstruct", tmp_path, *scans[:2]), "--max-seconds", "60"]) == 0
    first, second = ends
    assert first.left() < second.left() <= 60


@pytest.mark.parametrize("command", ["infer", "reconstruct"])
def test_what_concerns_all_ends_the_command_before_any_work(counting, scans, tmp_path, capsys, command):
    (tmp_path / "empty").mkdir()
    argv = words(command, tmp_path, *scans)
    cases = {
        "scans.none": words(command, tmp_path, tmp_path / "empty"),
        "usage.missing": [word for word in argv if word not in map(str, scans)],
        "output.not_a_folder": [*argv[:-1], str(scans[0])],
    }
    for code, wrong in cases.items():
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert f"[{code}]" in captured.err
        assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_broken_model_is_told_once(counting, scans, tmp_path, capsys):
    def broken(path):
        raise ContractError(Problem(str(path), "bundle.broken", "a bundle", "bytes", "copy it again"))

    counting.load = broken
    assert main(words("infer", tmp_path, *scans)) == 2
    assert capsys.readouterr().err.count("bundle.broken") == 1
    assert not (tmp_path / "out").exists()


def test_the_verdict_is_where_r_stands():
    """CLI-19, at its limits by hand."""
    assert [standing(ratio, 1.0) for ratio in (0.59, 0.61, 1.1, 1.11, 1.5, 1.51, 3.0, 3.01)] == [
        "below its floor",
        *["at its floor"] * 2,
        *["near its floor"] * 2,
        *["above its floor"] * 2,
        "far above its floor",
    ]


NAMES = st.sampled_from(["a", "a.npz", "a.h5", "a.npz-2.h5", "a-2.npz", "b.npz", "b-2", "b"])


@given(st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), NAMES), unique=True, max_size=12))
def test_folders_are_distinct_and_named_after_their_files(entries):
    paths = [Path(folder) / name for folder, name in entries]
    names = folder_names(paths)
    assert len(set(names)) == len(names) == len(paths)
    for path, name in zip(paths, names, strict=True):
        assert name.startswith(path.stem)
        if sum(other.stem == path.stem for other in paths) == 1 and path.stem not in {p.name for p in paths}:
            assert name == path.stem


def test_resume_never_takes_the_results_of_other_work(counting, scans, tmp_path, capsys, scan):
    """CLI-52: other data under the same name, or the results of another command, are told, not reported as done."""
    argv = words("reconstruct", tmp_path, *scans[:2])
    assert main(argv) == 0
    write_scan(scans[0], replace(scan, measurements=scan.measurements + np.uint16(1)))
    summary = tmp_path / "out" / "run2" / "summary.json"
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps({**content, "settings": {"inference": {}}}))
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "found one of other files" in said
    assert "found the results of another command" in said


def test_interrupted_scans_say_how_many_stay(counting, scans, tmp_path, capsys, monkeypatch):
    """CLI-37: the first is done, the second is interrupted."""
    argv, reconstruct, begun = words("reconstruct", tmp_path, *scans), counting.reconstruct, []

    def interrupted(scan, **options):
        begun.append(scan)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return reconstruct(scan, **options)

    monkeypatch.setattr(counting, "reconstruct", interrupted)
    assert main(argv) == 130
    assert "the results of 1 of 3 scans stay" in capsys.readouterr().err
    assert (tmp_path / "out" / "run1" / "summary.json").is_file()
