"""Results of a run are one set, written last to first or not at all (specs/cli.md, CLI-20, CLI-34 to CLI-37)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_cli.plots import reconstructions

EVENTS = ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.link", "os.listdir", "os.scandir", "os.chmod")
NAMES = {"object.npz", "amplitude.png", "phase.png", "report.html", "summary.json"}


@pytest.fixture
def _quick_pictures(monkeypatch):
    """Pictures that take no time, but depend on the image."""

    def draw(image, summary, folder):
        for name in ("amplitude.png", "phase.png"):
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode() + image.object.tobytes())
        return [folder / "amplitude.png", folder / "phase.png"]

    monkeypatch.setattr(reconstructions, "draw_run", draw)


@pytest.fixture
def run(backend, data_file, tmp_path):
    """Reconstruct into the same folder; returns the exit code."""
    return lambda *words: main(
        ["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet", *words]
    )


def inspected(out: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["inspect", str(out)])
    said = capsys.readouterr()
    return code, said.err if code else said.out


def test_the_summary_holds_the_sha256_of_every_output(run, tmp_path, capsys):
    """CLI-22; and `inspect` compares."""
    assert run() == 0
    outputs = json.loads((tmp_path / "out" / "summary.json").read_text())["outputs"]
    files = {path for path in (tmp_path / "out").iterdir() if path.name != "summary.json"}
    assert outputs == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    code, said = inspected(tmp_path / "out", capsys)
    assert code == 0
    assert "out: results" in said
    for name, digest in outputs.items():
        assert f"ok   {name:<17} sha256 {digest[:16]}..., as summary.json says" in said


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize("name", sorted(NAMES - {"summary.json"}))
@pytest.mark.parametrize("change", ["altered", "missing"])
def test_files_that_do_not_belong_together_are_named(name, change, run, tmp_path, capsys):
    """One line, exit 2."""
    assert run() == 0
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.unlink() if change == "missing" else path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, said = inspected(tmp_path / "out", capsys)
    assert code == 2
    assert said.count("\n") == 1
    assert said.startswith(f"ptycho-cli: error: {path}: expected sha256 ")
    assert ("no such file" if change == "missing" else "of another run") in said
    assert "results.mixed" in said


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "results.incomplete"),
        ("{", "results.summary"),
        ("[]", "results.summary"),
        ('{"outputs": ["object.npz"]}', "outputs without sha256"),
        ('{"outputs": {"../../object.npz": "0"}}', "output '../../object.npz'"),
        ('{"outputs": {}}', "one that it does not name"),
    ],
)
def test_results_without_a_whole_summary_are_refused(content, words, run, tmp_path, capsys):
    assert run() == 0
    path = tmp_path / "out" / "summary.json"
    path.unlink() if content is None else path.write_text(content)
    code, said = inspected(tmp_path / "out", capsys)
    assert code == 2
    assert words in said


def test_an_evaluation_of_another_image_is_told(run, backend, reconstruction, data_file, tmp_path, capsys):
    """The image beside it was reconstructed again after it had been evaluated."""
    out = tmp_path / "out"
    assert run() == 0
    words = ["evaluate", str(out / "object.npz"), "--truth", str(out / "object.npz"), "--output-dir", str(out)]
    assert main(words) == 0
    assert inspected(out, capsys)[0] == 0
    backend.result = replace(reconstruction, object=2 * reconstruction.object)
    assert run("--overwrite") == 0
    code, said = inspected(out, capsys)
    assert code == 2
    assert "evaluation.json: expected an evaluation of object.npz as it is" in said


@pytest.mark.slow
@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_killed_before_each_file_operation(replacing, run, backend, reconstruction, tmp_path, capsys, monkeypatch):
    """CLI-34: old, new, or a mixture that `inspect` tells; the next run in the folder leaves no trace of it.

    The old set has a picture that the new one lacks (CLI-45).
    """
    out, draw = tmp_path / "out", reconstructions.draw_run

    def of_the_old_also_losses(image, summary, folder):
        draw(image, summary, folder)
        if np.array_equal(image.object, reconstruction.object):
            (folder / "losses.png").write_bytes(b"\x89PNG\r\n\x1a\n" + 8 * b"losses")

    monkeypatch.setattr(reconstructions, "draw_run", of_the_old_also_losses)
    images = {"old": reconstruction, "new": replace(reconstruction, object=2 * reconstruction.object)}
    digests, states = {}, []
    for name in images:
        backend.result = images[name]
        assert run("--overwrite") == 0
        digests[name] = hashlib.sha256((out / "object.npz").read_bytes()).hexdigest()
    for moment in range(300):
        for path in out.iterdir():
            path.unlink()
        if replacing:
            backend.result = images["old"]
            assert run() == 0
        backend.result = images["new"]
        pid = os.fork()
        if not pid:
            killing(str(out), moment)
            os._exit(run("--overwrite"))
        _, status = os.waitpid(pid, 0)
        code, said = inspected(out, capsys)
        content = out / "object.npz"
        found = hashlib.sha256(content.read_bytes()).hexdigest() if content.exists() else "none"
        whole = {digest: name for name, digest in digests.items()}.get(found, found)
        states.append(whole if code == 0 else "told")
        if code == 0:
            assert whole in digests, "files that inspect takes for a set, without an object"
        elif found != "none":
            assert "results.mixed" in said or "results.incomplete" in said
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert run("--overwrite") == 0
        assert {path.name for path in out.iterdir()} == NAMES
        assert inspected(out, capsys)[0] == 0
    else:
        pytest.fail("no run lived")
    order = ["old", "told", "new"] if replacing else ["told", "new"]
    assert len(states) > 20
    assert states == sorted(states, key=order.index)
    assert set(states) == set(order)


def killing(folder: str, left: int) -> None:
    """Kill this process before its next but ``left`` file operations below a folder."""

    def count(event: str, args: tuple) -> None:
        nonlocal left
        if event in EVENTS and any(isinstance(arg, str | os.PathLike) and folder in str(arg) for arg in args):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


@pytest.mark.usefixtures("_quick_pictures")
def test_files_are_on_disk_before_they_count(run, tmp_path, monkeypatch):
    """Each file is synced before the first is renamed, and the folder after each; the summary is the last."""
    done, sync, rename = [], os.fsync, os.replace

    def synced(handle):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        sync(handle)

    def renamed(old, new):
        done.append(("rename", Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    assert run() == 0
    renames = [place for place, (what, name) in enumerate(done) if what == "rename" and name in NAMES]
    finals = renames[-len(NAMES) :]
    assert {done[place][1] for place in finals} == NAMES
    assert done[finals[-1]] == ("rename", "summary.json")
    assert {name for what, name in done[: finals[0]] if what == "sync"} >= NAMES
    assert all(done[place + 1] == ("sync", "out") for place in finals)
    assert ("sync", tmp_path.name) in done  # where the new folder's name is


@pytest.mark.usefixtures("_quick_pictures")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_is_obeyed(umask, mode, run, tmp_path):
    before = os.umask(umask)
    try:
        assert run() == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode & 0o777 == mode, path.name
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode | (mode >> 2 & 0o111)


HOLD = """
import sys, time
from pathlib import Path
from ptycho_data.run_folder import run_folder
with run_folder(Path(sys.argv[1]), ("ptycho-cli", "reconstruct", "first.npz")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("command", ["train", "infer", "reconstruct", "evaluate", "demo"])
def test_a_second_run_in_a_folder_ends_at_once(command, backend, data_file, tmp_path, capsys):
    """CLI-36: exit 2, before any work, naming the first; it changes nothing."""
    out, model = tmp_path / "out", tmp_path / "model.safetensors"
    model.write_bytes(b"")
    files = {"train": [data_file], "infer": [model, data_file], "reconstruct": [data_file], "demo": []}
    words = [command, *map(str, files.get(command, ["--scan", data_file])), "--output-dir", str(out)]
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"found `ptycho-cli reconstruct first.npz`, process {first.pid} on " in error
        assert "output.locked" in error
        assert backend.calls == {}
        assert [path.name for path in out.iterdir()] == [".run.lock"]
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_one_line(number, code, backend, run, tmp_path, capsys, monkeypatch):
    """CLI-30, CLI-37: anywhere in the work; the handlers are as before."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(backend, "reconstruct", lambda *_, **__: signal.raise_signal(number))
    assert run() == code
    assert capsys.readouterr().err == "ptycho-cli: error: interrupted; results are as they were before\n"
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("_quick_pictures")
def test_a_signal_between_two_files_waits_for_the_last(run, tmp_path, monkeypatch, capsys):
    """The set is whole; the exit code says that the signal came."""
    rename = os.replace

    def renamed(old, new):
        if Path(new).parent == tmp_path / "out" and Path(new).name == "object.npz":
            signal.raise_signal(signal.SIGTERM)
        rename(old, new)

    monkeypatch.setattr(os, "replace", renamed)
    assert run() == 143
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert inspected(tmp_path / "out", capsys)[0] == 0


def test_nothing_is_converted_into_a_set_of_results(run, tmp_path, capsys):
    """CLI-34: a file of a name that a run writes would belong to no set."""
    assert run() == 0
    out = tmp_path / "out"
    assert main(["convert", str(out), str(out / "object.tif")]) == 2
    assert "convert.in_results" in capsys.readouterr().err
    assert main(["inspect", str(out)]) == 0
