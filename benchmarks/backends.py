"""Both backends on the same scan: rates of training and inference, and figures of several seeds; prints JSON.

usage: python benchmarks/backends.py SCAN.npz [--modes 1] [--steps 57] [--repeats 2] [--seeds K]

``PTYCHO_TORCH_PYTHON`` and ``PTYCHO_TF_PYTHON`` name the interpreters; each command is a process of its own with one
thread. Rates are patterns per CPU second of the summaries' stages ``training`` and ``inference``, with first calls,
tracing and validation, without imports. Both infer with the bundle that PyTorch trained; the runs alternate.

With ``--seeds``, each backend trains K times on the scan, with seeds 0 to K - 1 and the same budget, and infers it;
SCAN.npz then holds its truth as ``objectGuess``. Ranges overlap where the worst seed of either backend does not beat
the best of the other; the p-value is that of a Mann-Whitney test.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from command_runs import against_truth, command, training_figures
from measuring import machine, show
from ptycho_contracts.records import Scan
from ptycho_data.files import read_scan
from scipy.stats import mannwhitneyu

BATCH, GRIDSIZE, VALIDATION_FRACTION = 16, 2, 0.05
COMPARED = ("val_loss", "complex_correlation", "phase_ssim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--modes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=57)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=0)
    given = parser.parse_args()
    python = interpreters()
    with tempfile.TemporaryDirectory(prefix="backends-") as name:
        work = Path(name)
        result: dict[str, Any] = {"scan": given.scan.name, "modes": given.modes, "machine": machine()}
        if given.repeats:
            result |= rates(work, python, given.scan, given)
        if given.seeds:
            result["seeds"] = parity(work, python, given)
    show(result)


def interpreters() -> dict[str, str]:
    """Interpreter of each backend, from the same variables as in the tests of both."""
    python = {name: os.environ.get(f"PTYCHO_{name.upper()}_PYTHON", "") for name in ("torch", "tf")}
    missing = [f"PTYCHO_{name.upper()}_PYTHON" for name, path in python.items() if not shutil.which(path)]
    if missing:
        sys.exit(f"set {' and '.join(missing)} to an interpreter with that backend")
    return python


def training_words(scan: Path, given: argparse.Namespace, seed: int) -> tuple[str, ...]:
    """A training of ``--steps`` steps in one epoch, with the probe of the file."""
    groups = round(given.steps * BATCH / (1 - VALIDATION_FRACTION))
    options = {
        "--modes": given.modes,
        "--gridsize": GRIDSIZE,
        "--batch-size": BATCH,
        "--n-groups": groups,
        "--val-fraction": VALIDATION_FRACTION,
        "--epochs": 1,
        "--seed": seed,
        "--logger": "none",
    }
    return ("train", str(scan), "--keep-probe", *(str(word) for pair in options.items() for word in pair))


def rates(work: Path, python: dict[str, str], scan: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rates of each run, and TensorFlow's median over PyTorch's."""
    result: dict[str, dict[str, list[float]]] = {
        stage: {name: [] for name in python} for stage in ("training", "inference")
    }
    steps = {}
    for repeat in range(given.repeats):
        for name, path in python.items():
            out = work / f"{name}-{repeat}"
            words = (*training_words(scan, given, 0), "--backend", name)
            summary = command(out / "train", *words, interpreter=path)
            steps[name] = summary["training"]["steps"]
            result["training"][name].append(round(summary["patterns_per_cpu_second"], 1))
            words = ("infer", str(work / "torch-0" / "train" / "model.safetensors"), str(scan), "--backend", name)
            summary = command(out / "infer", *words, interpreter=path)
            result["inference"][name].append(round(summary["patterns_per_cpu_second"], 1))
    return {"steps": steps} | {
        stage: {**runs, "tf_over_torch": round(statistics.median(runs["tf"]) / statistics.median(runs["torch"]), 3)}
        for stage, runs in result.items()
    }


def parity(work: Path, python: dict[str, str], given: argparse.Namespace) -> dict[str, Any]:
    """Figures of each seed and backend, and whether they could come from one distribution."""
    scan = with_truth(given.scan)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in python}
    for seed in range(given.seeds):
        for name, path in python.items():
            out = work / f"{name}-seed-{seed}"
            words = (*training_words(given.scan, given, seed), "--backend", name)
            trained = training_figures(command(out / "train", *words, interpreter=path))
            words = ("infer", str(out / "train" / "model.safetensors"), str(given.scan), "--backend", name)
            command(out / "infer", *words, interpreter=path)
            rows[name].append({"seed": seed, **trained, **against_truth(out / "infer", scan)})
    return {**rows, "overlap": {figure: overlap(rows, figure) for figure in COMPARED}}


def with_truth(path: Path) -> Scan:
    """The scan with its true object, whatever the file says of it."""
    return read_scan(path, object_is_truth=True)


def overlap(rows: dict[str, list[dict[str, Any]]], figure: str) -> dict[str, Any]:
    """Range, mean and spread of a figure by backend, and how likely such a difference is by chance."""
    values = {name: [row[figure] for row in mine] for name, mine in rows.items()}
    result: dict[str, Any] = {
        name: {
            "least": min(mine),
            "most": max(mine),
            "mean": statistics.fmean(mine),
            "deviation": statistics.stdev(mine) if len(mine) > 1 else None,
        }
        for name, mine in values.items()
    }
    result["ranges_overlap"] = max(map(min, values.values())) <= min(map(max, values.values()))
    result["p_value"] = float(mannwhitneyu(values["torch"], values["tf"]).pvalue)
    return result


if __name__ == "__main__":
    main()
