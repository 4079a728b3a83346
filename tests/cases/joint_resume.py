"""A command that is killed during its fit resumes where it was, whichever backend computes (PHY-32, CLI-27)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from imaging_flags import Images
from ptycho_cli.main import main

PROGRAM = """
import sys
from ptycho_cli.main import main
from ptycho_data.fitting import checkpoints
checkpoints.SPACING_SECONDS = 0.0
sys.exit(main(sys.argv[1:]))
"""
"""The program, with its first checkpoint after the first epoch: no test waits for seconds to pass."""
FITTED = ("--correct-positions", "--fit-background", "--val-fraction", "0.1", "--hold-out", "0.1", "--quiet")
SETTINGS = {
    "reconstruct": ("--epochs", "60", "--modes", "2", "--batch-size", "8", *FITTED),
    "infer": ("--refine", "60", *FITTED),
}
PATIENCE_S = 120


class Resumes(Images):
    """Real processes, killed by the operating system."""

    @pytest.fixture(params=SETTINGS)
    def words(self, request, backend, model, other_scan_file):
        """A command line without its output folder."""
        files = [model] if request.param == "infer" else []
        return [request.param, *map(str, files), str(other_scan_file), *SETTINGS[request.param], "--backend", backend]

    @pytest.fixture
    def killed(self, words, tmp_path) -> Path:
        """The output folder of a run that was killed after its first checkpoint."""
        out = tmp_path / "out"
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words, "--output-dir", str(out)])
        give_up = time.monotonic() + PATIENCE_S
        while not checkpoint_of(out).exists():
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < give_up, "no checkpoint"
            time.sleep(0.005)
        process.kill()
        assert process.wait() < 0, "the run ended before it was killed"
        return out

    def test_killed_and_resumed(self, words, killed, tmp_path):
        """Bit for bit the results of a run that nothing interrupted; the checkpoint goes when they are there."""
        assert not (killed / "object.npz").exists()
        run(*words, "--output-dir", str(killed), "--resume")
        run(*words, "--output-dir", str(tmp_path / "whole"))
        result, whole = (results(out) for out in (killed, tmp_path / "whole"))
        for name in whole["arrays"]:
            np.testing.assert_array_equal(result["arrays"][name], whole["arrays"][name])
        for name in ("losses", "validation", "stopped_by", "residual", "position_correction_rms_px"):
            assert result["summary"][name] == whole["summary"][name]
        assert 0 < result["summary"]["resumed_from_epoch"] < 60
        assert whole["summary"]["resumed_from_epoch"] == 0
        assert {path.name for path in killed.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}

    def test_of_other_settings_is_refused_and_stays(self, words, killed, capfd):
        """CKP-5: one line that names the difference; nothing is lost."""
        before = checkpoint_of(killed).read_bytes()
        capfd.readouterr()
        assert main([*words, "--seed", "9", "--output-dir", str(killed), "--resume"]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert "settings.seed: expected 9, as this run has it, found 0; resume with the settings" in error
        assert "checkpoint.other" in error
        assert checkpoint_of(killed).read_bytes() == before


def run(*words: str) -> None:
    """Run the program to its end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


def checkpoint_of(out: Path) -> Path:
    return out / "checkpoints" / "joint_fit.safetensors"


def results(out: Path) -> dict:
    """Arrays and summary of a run."""
    with np.load(out / "object.npz") as content:
        arrays = {name: content[name] for name in content.files}
    return {"arrays": arrays, "summary": json.loads((out / "summary.json").read_text())}
