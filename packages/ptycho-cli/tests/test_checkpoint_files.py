"""The checkpoint of a joint reconstruction in its output folder (specs/cli.md, CLI-27; CFG-22)."""

from __future__ import annotations

import pytest
from ptycho_cli.main import main

pytestmark = pytest.mark.usefixtures("undrawn")

COMMANDS = {"reconstruct": ("{data}",), "infer": ("{model}", "{data}", "--refine", "2")}


@pytest.fixture(params=COMMANDS)
def command(request, data_file, tmp_path):
    """One of the two commands with a joint reconstruction, run into the same folder each time."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")

    def run(*words):
        given = [word.format(data=data_file, model=model) for word in COMMANDS[request.param]]
        return main([request.param, *given, "--output-dir", str(tmp_path / "out"), *words])

    run.name = request.param
    return run


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "out" / "checkpoints" / "joint_fit.safetensors"


@pytest.fixture
def earlier(checkpoint):
    """The checkpoint that an interrupted run left."""
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"an earlier state")
    return checkpoint


def test_the_backend_receives_its_path(backend, command, checkpoint, earlier):
    for word, resume in (("--overwrite", False), ("--resume", True)):
        earlier.parent.mkdir(exist_ok=True)
        earlier.write_bytes(b"an earlier state")
        assert command(word) == 0
        call = backend.calls[command.name]
        assert (call["checkpoint"], call["resume"]) == (checkpoint, resume)


def test_it_is_removed_when_the_results_are_in_place(backend, command, checkpoint):
    backend.checkpoints = 2
    assert command() == 0
    assert (checkpoint.parents[1] / "object.npz").exists()
    assert not checkpoint.parent.exists()


def test_a_checkpoint_that_was_resumed_from_is_removed_too(backend, command, earlier):
    assert command("--resume") == 0
    assert not earlier.exists()


def test_other_files_beside_it_stay(backend, command, earlier):
    other = earlier.with_name("epoch=3.ckpt")
    other.write_bytes(b"of a training")
    backend.checkpoints = 1
    assert command("--overwrite") == 0
    assert [path.name for path in earlier.parent.iterdir()] == [other.name]


@pytest.mark.parametrize("word", ["--overwrite", "--resume"])
def test_it_outlives_a_failure(backend, command, earlier, word):
    """A run that fails removes nothing."""
    backend.error = RuntimeError("out of memory")
    assert command(word) == 1
    assert earlier.read_bytes() == b"an earlier state"


def test_it_outlives_pictures_that_cannot_be_drawn(backend, command, checkpoint, monkeypatch):
    """The checkpoint is removed only when the results are in place."""
    from ptycho_cli.plots import reconstructions as pictures

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(pictures, "draw_run", full)
    backend.checkpoints = 1
    assert command() == 1
    assert checkpoint.exists()


@pytest.mark.parametrize(("written", "stays"), [(1, True), (0, False)])
def test_a_run_that_its_time_limit_ended_can_be_given_more_time(backend, command, earlier, written, stays, monkeypatch):
    """CLI-27: its checkpoint stays beside the results, and `--resume` replaces these; another run's does not."""
    fit = backend._fit

    def by_time(*args, **options):
        image, report = fit(*args, **options)
        return image, {**report, "stopped_by": "max_seconds"}

    monkeypatch.setattr(backend, "_fit", by_time)
    backend.checkpoints = written
    assert command("--overwrite") == 0
    assert earlier.exists() is stays
    if stays:
        assert command() == 2
        assert command("--resume") == 0
        assert backend.calls[command.name]["resume"] is True
        assert earlier.exists()


def test_nothing_to_resume_is_reported_before_any_work(backend, command, capsys):
    assert command("--resume") == 2
    assert "checkpoint.missing" in capsys.readouterr().err
    assert backend.calls == {}


def test_resume_needs_checkpoints(backend, command, earlier, capsys):
    assert command("--resume", "--disable-checkpointing") == 2
    assert "checkpoint.disabled" in capsys.readouterr().err
    assert backend.calls == {}


def test_disabled(backend, command):
    assert command("--disable-checkpointing") == 0
    assert backend.calls[command.name]["checkpoint"] is None


def test_an_image_without_refinement_has_none(backend, data_file, tmp_path, earlier, capsys):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")
    argv = ["infer", str(model), str(data_file), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    assert backend.calls["infer"]["checkpoint"] is None
    assert main([*argv, "--resume"]) == 2
    assert "infer without --refine" in capsys.readouterr().err
    assert earlier.exists()


def test_patience_needs_validation(backend, command, capsys):
    """CFG-25."""
    assert command("--early-stop-patience", "3") == 2
    assert "config.no_effect" in capsys.readouterr().err
    assert backend.calls == {}
    assert command("--early-stop-patience", "3", "--val-fraction", "0.1") == 0


def test_validation_need_a_refinement(backend, data_file, tmp_path, capsys):
    """CFG-25."""
    argv = ["infer", str(data_file), str(data_file), "--output-dir", str(tmp_path / "out"), "--val-fraction", "0.1"]
    assert main(argv) == 2
    assert "config.no_effect" in capsys.readouterr().err
    assert backend.calls == {}


def test_evaluate_keeps_none(backend, data_file, tmp_path, capsys):
    """CLI-17: five joint reconstructions without checkpoints; options that are not read are refused."""
    assert main(["evaluate", "--scan", str(data_file), "--disable-checkpointing"]) == 2
    assert "--disable-checkpointing" in capsys.readouterr().err
    assert backend.calls == {}


def test_a_training_has_its_own(backend, data_file, tmp_path, capsys):
    """CLI-27: given to the backend, removed when the results are there, and needed for `--resume`."""
    out = tmp_path / "out"
    words = ["train", str(data_file), "--output-dir", str(out), "--quiet"]
    kept = out / "checkpoints" / "training.safetensors"
    assert main(words) == 0
    assert (backend.calls["train"]["checkpoint"], backend.calls["train"]["resume"]) == (kept, False)
    assert main([*words, "--resume"]) == 2
    assert "checkpoint.missing" in capsys.readouterr().err
    kept.parent.mkdir()
    kept.write_bytes(b"an earlier state")
    assert main([*words, "--resume", "--disable-checkpointing"]) == 2
    assert "checkpoint.disabled" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert backend.calls["train"]["resume"] is True
    assert not kept.parent.exists()
