"""One command of the suite in a process of its own, its CPU seconds, and its image against truth."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import ONE_THREAD
from ptycho_contracts.records import Scan
from ptycho_data.files import read_reconstruction
from ptycho_data.metrics import compare

FIGURES = ("complex_correlation", "amplitude_rmse", "amplitude_ssim", "phase_rmse_rad", "phase_ssim")


class CommandFailed(RuntimeError):
    """A command that ended with another exit code than 0; its text is that of stderr."""


def command(out: Path, *words: str | Path, interpreter: str = sys.executable) -> dict[str, Any]:
    """Run ``ptycho-cli words... --output-dir out --overwrite --quiet`` with one thread, by this or another interpreter.

    Returns:
        Its ``summary.json``, with ``process_cpu_s``: CPU seconds of the whole process, imports included.

    Raises:
        CommandFailed: another exit code than 0.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [interpreter, "-m", "ptycho_cli", *map(str, words), "--output-dir", str(out), "--overwrite", "--quiet"]
    done = subprocess.run(line, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and "training.collapsed" not in done.stderr:  # then all files are there, and say so
        raise CommandFailed(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads((out / "summary.json").read_text()), "process_cpu_s": round(cpu, 2)}


def against_truth(folder: Path, scan: Scan) -> dict[str, Any]:
    """Figures (specs/metrics.md) of ``folder/object.npz`` against the true object of its scan."""
    image = read_reconstruction(folder / "object.npz")
    score = compare(
        image.object,
        scan.object_truth,
        weight=image.weight,
        estimate_origin_yx_px=image.origin_yx_px,
        truth_origin_yx_px=scan.object_origin_yx_px,
    )
    figures = score.to_dict()
    return {name: figures[name] for name in FIGURES}


def training_figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What a training reports, and what it cost."""
    training = summary["training"]
    return {
        "epochs": training["epochs"],
        "steps": training["steps"],
        "val_loss": training["losses"].get("val_loss"),
        "uniform_loss": training["uniform_loss"],
        "collapsed": training["collapsed"],
        "training_cpu_s": round(summary["cpu_seconds"]["training"], 2),
        "process_cpu_s": summary["process_cpu_s"],
    }
