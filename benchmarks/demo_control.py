"""The demo in each backend beside its controls: the same network untrained, and the prior alone; prints JSON.

usage: python benchmarks/demo_control.py [--max-seconds 170]

``PTYCHO_TORCH_PYTHON`` and ``PTYCHO_TF_PYTHON`` name the interpreters; one that is not set is left out. Each command
is a process of its own with one thread. The controls infer the demo's test scan with its probe: a network after one
step at a learning rate of 1e-12, and the model ``pretrained``, which nobody trained on this scan.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from command_runs import against_truth, command, training_figures
from measuring import machine, show
from ptycho_contracts.records import Scan
from ptycho_data.files import read_scan

UNTRAINED = ("--gridsize", "2", "--seed", "0", "--n-groups", "16", "--epochs", "1", "--learning-rate", "1e-12")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-seconds", type=float, default=170.0)
    given = parser.parse_args()
    found = {name: os.environ.get(f"PTYCHO_{name.upper()}_PYTHON") for name in ("torch", "tf")}
    results = {name: measured(name, python, given.max_seconds) for name, python in found.items() if python}
    show({"machine": machine(), "max_seconds": given.max_seconds, "untrained": UNTRAINED, "results": results})


def measured(backend: str, python: str, max_seconds: float) -> dict[str, Any]:
    """Figures of the demo and of its controls with one backend."""
    chosen: tuple[str, ...] = ("--backend", backend)
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        work = Path(name)
        whole = command(work / "demo", "demo", "--max-seconds", str(max_seconds), *chosen, interpreter=python)
        scan = read_scan(work / "demo" / "test.npz")
        command(work / "none", "train", work / "demo" / "train.npz", *UNTRAINED, *chosen, interpreter=python)

        def image(model: str | Path) -> dict[str, Any]:
            out = work / "image" / Path(model).parent.name / Path(model).name
            summary = command(out, "infer", model, work / "demo" / "test.npz", *chosen, interpreter=python)
            return row(out, summary, scan)

        return {
            "demo": {
                **training_figures({**whole["train"], "process_cpu_s": whole["process_cpu_s"]}),
                "wall_s": round(whole["seconds"], 1),
                **row(work / "demo" / "image", whole["infer"], scan),
            },
            "untrained": image(work / "none" / "model.safetensors"),
            "pretrained": image("pretrained"),
        }


def row(out: Path, summary: dict[str, Any], scan: Scan) -> dict[str, Any]:
    """An image against its truth, its residual and its cost."""
    cpu = {stage: round(seconds, 2) for stage, seconds in summary["cpu_seconds"].items()}
    return {**against_truth(out, scan), "residual": summary["residual"], "inference_cpu_s": cpu}


if __name__ == "__main__":
    main()
