"""Train, infer, refine and reconstruct one measured scan through the installed commands; prints JSON.

usage: python benchmarks/measured_scan.py SCAN.npz [--modes 3] [--train-epochs 1] [--passes 3]

Each command runs in a process of its own with one thread. 52 of 516 patterns (a tenth of any scan) are held out as
``numpy.random.default_rng(0).permutation(M)[:round(M / 10)]``; baselines are a uniform object under the file's probe,
and the joint reconstruction from empty space.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ONE_THREAD, machine, show

FIGURES = ("residual", "poisson_floor", "network", "cpu_seconds", "patterns_per_cpu_second", "epochs", "training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--modes", type=int, default=3)
    parser.add_argument("--train-epochs", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        held = work / "held.npy"
        count = len(np.load(given.scan)["xcoords"])
        np.save(held, np.sort(np.random.default_rng(0).permutation(count)[: round(count / 10)]))
        common = ("--hold-out", str(held), "--quiet")
        model = str(work / "train" / "model.safetensors")
        scan, modes = str(given.scan), ("--modes", str(given.modes))
        runs = {
            "train": ("train", scan, *modes, "--epochs", str(given.train_epochs), "--passes", str(given.passes)),
            "infer": ("infer", model, scan),
            "infer_refine_5": ("infer", model, scan, "--refine", "5"),
            "reconstruct_15": ("reconstruct", scan, *modes, "--epochs", "15"),
            "reconstruct_30": ("reconstruct", scan, *modes, "--epochs", "30"),
            "reconstruct_one_mode_30": ("reconstruct", scan, "--modes", "1", "--epochs", "30"),
        }
        results = {name: command(work / name, words, common) for name, words in runs.items()}
    show(
        {
            "scan": given.scan.name,
            "patterns": count,
            "held_out": round(count / 10),
            "passes": given.passes,
            "machine": machine(),
            **results,
        }
    )


def command(out: Path, words: tuple[str, ...], common: tuple[str, ...]) -> dict[str, Any]:
    """Run one command; figures of its summary, with CPU seconds and peak memory of the whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "ptycho_cli", *words, "--output-dir", str(out), "--overwrite", *common]
    done = subprocess.run(line, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads((out / "summary.json").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {name: summary[name] for name in FIGURES if name in summary} | {
        "process_cpu_s": round(cpu, 2),
        "peak_mb_so_far": round(after.ru_maxrss * 1024 / 1e6),
    }


if __name__ == "__main__":
    main()
