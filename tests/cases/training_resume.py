"""A training that is stopped resumes where it was, whichever backend computes (CKP-7 to CKP-9, TRN-17, TRN-19)."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_contracts.problems import ContractError, WorkFailedError
from ptycho_data import bundle_file
from ptycho_data.files import read_scan
from ptycho_data.fitting import checkpoints
from ptycho_data.signals import Interrupted

SMALL: dict[str, Any] = {
    "epochs": 6,
    "width": 2,
    "iterations": 1,
    "passes": 1,
    "gridsize": 1,
    "n_groups": 40,
    "batch_size": 8,
    "enable_progress_bar": False,
    "logger_backend": "none",
}
"""Five steps an epoch."""
LEARNS_NOTHING = {"learning_rate": 1e-9, "architecture": "cnn"}
RUNS = {
    "calibrated": ({"calibrate_probe": True, "calibration_epochs": 2, "scheduler": "cosine"}, (3, 12)),
    "plateau": ({"scheduler": "plateau", "learning_rate": 0.05, "epochs": 9}, (33,)),
    "stops early": ({"early_stop_patience": 1, "learning_rate": 0.05, "accum_steps": 2, "epochs": 12}, (7,)),
    "restarts": (LEARNS_NOTHING, (8, 17)),
}
"""Options, and the steps after which the training is stopped: before and after its restart, for one."""
PATIENCE_S = 120

PROGRAM = """
import sys
from ptycho_cli.main import main
from ptycho_data.fitting import checkpoints
checkpoints.SPACING_SECONDS = checkpoints.SPACING_FACTOR = 0.0
sys.exit(main(sys.argv[1:]))
"""
"""The program, with a checkpoint at every epoch: no test waits for seconds to pass."""


class ResumesTraining:
    """Weights, probe and figures are those of a training that nothing interrupted."""

    @pytest.fixture
    def trained(self, backend, scan_file, monkeypatch) -> Callable[..., Any]:
        """Train into a folder in this process; ``stop`` is called after the step with number ``after``."""
        monkeypatch.setattr(checkpoints, "SPACING_SECONDS", 0.0)
        monkeypatch.setattr(checkpoints, "SPACING_FACTOR", 0.0)
        computing = importlib.import_module(f"ptycho_{backend}.backend")
        scan = read_scan(scan_file)

        def run(out, *, after=0, stop=None, resume=False, keeps=True, **options):
            steps = 0

            def progress(stage, *_):
                nonlocal steps
                steps += stage.startswith("training")
                if steps == after and stage.startswith("training"):
                    stop()

            known = SMALL if options.get("architecture") != "cnn" else _without(SMALL, "iterations", "passes")
            payload = computing.create_training_payload(scan, out, overrides={**known, **options})
            checkpoint = checkpoint_of(out) if keeps else None
            return computing.train(payload, checkpoint=checkpoint, resume=resume, progress=progress)

        return run

    @pytest.mark.parametrize(("name", "how"), [*((name, "a signal") for name in RUNS), ("plateau", "a crash")])
    def test_stopped_and_resumed(self, name, how, trained, tmp_path):
        """CKP-9."""
        options, places = RUNS[name]
        whole, summary = trained(tmp_path / "whole", **options)
        if name == "restarts":
            assert summary["training"]["restarts"] == 1
        for after in places:
            out = tmp_path / str(after)
            with pytest.raises(Interrupted if how == "a signal" else ZeroDivisionError) as caught:
                trained(out, after=after, stop=interrupt if how == "a signal" else crash, **options)
            if how == "a signal":
                assert str(checkpoint_of(out)) in caught.value.kept
            assert not (out / "model.safetensors").exists()
            resumed, again = trained(out, resume=True, **options)
            assert_same(resumed, whole)
            assert again["training"] == summary["training"]
            assert again["probe"] == summary["probe"]
            kept = [
                sorted(path.name for path in (tmp_path / each / "checkpoints").iterdir()) for each in ("whole", out)
            ]
            assert kept[0] == kept[1]

    def test_best_weights_that_a_killed_training_replaced(self, trained, tmp_path):
        """They are in the checkpoint; the file of the best epoch may be of a later one by then."""
        whole, _ = trained(tmp_path / "whole")
        with pytest.raises(Interrupted):
            trained(tmp_path / "out", after=22, stop=interrupt)
        for path in (tmp_path / "out" / "checkpoints").glob("epoch=*"):
            path.unlink()
        resumed, _ = trained(tmp_path / "out", resume=True)
        assert_same(resumed, whole)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"learning_rate": 0.5}, "settings.learning_rate: expected 0.5, as this run has it, found 0.001"),
            ({"seed": 3}, "settings.seed: expected 3"),
            ({"hold_out": "0.2"}, "used: expected "),
        ],
    )
    def test_of_another_run_is_refused(self, change, words, trained, tmp_path):
        """CKP-8; the checkpoint stays."""
        with pytest.raises(Interrupted):
            trained(tmp_path, after=12, stop=interrupt)
        before = checkpoint_of(tmp_path).read_bytes()
        with pytest.raises(ContractError) as caught:
            trained(tmp_path, resume=True, **change)
        assert "checkpoint.other" in caught.value.codes
        assert words in str(caught.value)
        assert checkpoint_of(tmp_path).read_bytes() == before

    def test_options_that_change_no_bit_may_change(self, trained, tmp_path):
        with pytest.raises(Interrupted):
            trained(tmp_path, after=12, stop=interrupt)
        trained(tmp_path, resume=True, checkpoint_save_top_k=-1, num_workers=1, logger_backend="csv")

    @pytest.mark.parametrize("epochs", [4, 9])
    def test_the_budget_may_be_changed(self, epochs, trained, tmp_path):
        """CKP-9: of 6 epochs two are done; more or fewer follow, and the schedule ends with them."""
        options = {"scheduler": "cosine"}
        with pytest.raises(Interrupted):
            trained(tmp_path, after=12, stop=interrupt, **options)
        _, summary = trained(tmp_path, resume=True, epochs=epochs, max_seconds=1e6, **options)
        assert (summary["training"]["epochs"], summary["training"]["stopped_by"]) == (epochs, "epochs")
        assert summary["training"]["steps"] == 5 * epochs

    def test_fewer_epochs_than_are_done(self, trained, tmp_path):
        """One clear error; the checkpoint stays."""
        with pytest.raises(Interrupted):
            trained(tmp_path, after=12, stop=interrupt)
        before = checkpoint_of(tmp_path).read_bytes()
        with pytest.raises(ContractError, match=r"more epochs than the 2 that are done.*checkpoint\.budget"):
            trained(tmp_path, resume=True, epochs=2)
        assert checkpoint_of(tmp_path).read_bytes() == before

    def test_without_checkpoints_a_signal_leaves_the_model_as_it_is(self, trained, tmp_path):
        """TRN-17; a training that learned nothing so far is not restarted then."""
        for options in ({}, LEARNS_NOTHING):
            model, summary = trained(
                tmp_path, after=7, stop=interrupt, keeps=False, enable_checkpointing=False, **options
            )
            training = summary["training"]
            assert (training["stopped_by"], training["interrupted_by"]) == ("interrupted", signal.SIGINT)
            assert (training["steps"], training["restarts"]) == (7, 0)
            assert bundle_file.read_bundle(tmp_path / "model.safetensors").provenance["training"] == training
            assert model is not None

    def test_the_handlers_are_as_before(self, trained, tmp_path):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(Interrupted):
            trained(tmp_path, after=3, stop=interrupt)
        trained(tmp_path)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_a_disk_that_is_full_at_the_end_loses_no_weights(self, trained, tmp_path, monkeypatch):
        """TRN-19, with a checkpoint: free space, and resume."""
        whole, _ = trained(tmp_path / "whole")
        with monkeypatch.context() as patched:
            patched.setattr(bundle_file, "write_tensors", full)
            with pytest.raises(WorkFailedError) as caught:
                trained(tmp_path / "out")
        assert caught.value.codes == ("training.write",)
        assert f"{checkpoint_of(tmp_path / 'out')}: `resume` continues from there" in str(caught.value)
        resumed, _ = trained(tmp_path / "out", resume=True)
        assert_same(resumed, whole)

    def test_a_disk_that_is_full_at_the_end_of_a_training_without_checkpoints(self, trained, tmp_path, monkeypatch):
        """TRN-19: the model is elsewhere."""
        out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
        elsewhere.mkdir()
        write = bundle_file.write_tensors
        monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
        monkeypatch.setattr(
            bundle_file,
            "write_tensors",
            lambda path, *args, **kw: (full if out in path.parents else write)(path, *args, **kw),
        )
        with pytest.raises(WorkFailedError) as caught:
            trained(out, keeps=False, enable_checkpointing=False)
        (rescued,) = elsewhere.rglob("model.safetensors")
        assert f"the model is {rescued}" in str(caught.value)
        assert bundle_file.read_bundle(rescued).weights

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, None)])
    def test_the_command(self, number, code, backend, scan_file, tmp_path):
        """CLI-27, CLI-37: real processes; the checkpoint goes when the results are there."""
        out = tmp_path / "out"
        words = ["train", str(scan_file), "--backend", backend, "--output-dir", str(out), "--quiet", "--width", "2"]
        words += ["--epochs", "60", "--n-groups", "40", "--gridsize", "1", "--iterations", "1", "--passes", "1"]
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + PATIENCE_S
        while not list(out.glob("checkpoints/epoch=0002-*")) and not list(out.glob("checkpoints/epoch=0003-*")):
            assert process.poll() is None, "the run ended before it was stopped"
            assert time.monotonic() < give_up, "no third epoch"
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == (-number if code is None else code), said
        if code is not None:
            assert said.count("\n") == 1
            assert said.startswith("ptycho-cli: error: interrupted; the state after epoch ")
            assert said.rstrip().endswith(f"{checkpoint_of(out)}: --resume continues from there")
            assert not (out / ".run.lock").exists()
        assert not (out / "model.safetensors").exists()
        assert main([*words, "--resume"]) == 0
        assert not checkpoint_of(out).exists()
        summaries = [json.loads((out / "summary.json").read_text())]
        weights = [bundle_file.read_bundle(out / "model.safetensors")]
        if number == signal.SIGTERM:  # one of them beside a run that nothing interrupted
            assert main([*words[:4], "--output-dir", str(tmp_path / "whole"), *words[6:]]) == 0
            summaries.append(json.loads((tmp_path / "whole" / "summary.json").read_text()))
            weights.append(bundle_file.read_bundle(tmp_path / "whole" / "model.safetensors"))
            assert summaries[0]["training"] == summaries[1]["training"]
            for name, value in weights[0].weights.items():
                np.testing.assert_array_equal(value, weights[1].weights[name])
            assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def checkpoint_of(out: Path) -> Path:
    return out / "checkpoints" / "training.safetensors"


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def crash() -> None:
    raise ZeroDivisionError


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def assert_same(one, other) -> None:
    """Bit for bit the same weights and probe."""
    for name, value in other.model.weight_arrays().items():
        np.testing.assert_array_equal(one.model.weight_arrays()[name], value)
    np.testing.assert_array_equal(one.model.probe_array(), other.model.probe_array())


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
