"""The tutorial and the notebooks, as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ptycho_cli.main import main

NOTEBOOKS = ("first-image", "training")


def test_the_tutorial_runs_as_written(repository, tmp_path, monkeypatch, capsys):
    """Every command, file and Python block, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", (repository / "docs" / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE
    )
    done = {"ptycho-cli": 0, "toml": 0, "python": 0}
    for language, text in blocks:
        if language == "toml":
            Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
            done["toml"] += 1
        elif language == "python":
            exec(compile(text, "docs/tutorial.md", "exec"), {})
            done["python"] += 1
        for line in text.splitlines():
            if line.startswith("ptycho-cli "):
                assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
                done["ptycho-cli"] += 1
    assert done["ptycho-cli"] >= 14
    assert (done["toml"], done["python"]) == (1, 2)
    assert (tmp_path / "image" / "phase.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_run(repository, tmp_path, name):
    """Their code cells, in order, in a process of their own."""
    notebook = json.loads((repository / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    program = tmp_path / f"{name}.py"
    program.write_text("\n\n".join(cells))
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    words = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(program)]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_every_notebook_is_run(repository):
    assert sorted(path.stem for path in (repository / "docs" / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)
