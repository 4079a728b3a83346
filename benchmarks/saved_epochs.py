"""Epochs of joint reconstruction that a network's image saves on a measured scan; prints JSON.

usage: python benchmarks/saved_epochs.py SCAN.npz [--epochs 20] [--bound 0.0105] [--modes 3] [--train "OPTIONS"]

``ptycho-cli train`` calibrates the probe and trains on the used patterns; ``infer`` follows. The joint reconstruction
(specs/physics.md, PHY-27) then starts with that probe from three objects: empty space, the image by the same passes
of physics without a trained network, and the network's image. As the learning rates of a fit follow its length, each
number of epochs is a fit of its own. Figures: the held-out residual R at the end of each, the least number of
epochs with R at or below the bound, and what the network's image saves. Held out are a tenth of the patterns,
``numpy.random.default_rng(0).permutation(M)[:round(M / 10)]``. One thread.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_runs import command, training_figures
from measuring import machine, show
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig
from ptycho_contracts.records import Scan
from ptycho_data.files import read_reconstruction, read_scan, write_scan
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.workflows.infer import infer_on_canvas
from ptycho_data.workflows.prepared_scan import PreparedScan, prepare_scan
from ptycho_torch.backend import BACKEND
from ptycho_torch.bundle import load_bundle
from ptycho_torch.model import PtychoModel

Object = NDArray[np.complex64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--epochs", type=int, default=20, help="longest fit")
    parser.add_argument("--bound", type=float, default=0.0105, help="held-out R to be reached")
    parser.add_argument("--modes", type=int, default=3)
    parser.add_argument("--patterns", type=int, default=None, help="only the patterns nearest to the middle")
    parser.add_argument("--object-rates", type=float, nargs="+", default=[0.02], help="steps of the object to try")
    parser.add_argument("--stop", action="store_true", help="no longer fits after the bound is reached")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default="", help="further options of ptycho-cli train, as one string")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scan = middle(read_scan(given.scan), given.patterns)
    with tempfile.TemporaryDirectory(prefix="saved-epochs-") as name:
        view, starts, probe, trained = started(scan, Path(name), given)
    fits = {
        f"object_rate_{rate:g}": {
            start: reconstructed(view, object_, probe, given, rate) for start, object_ in starts.items()
        }
        for rate in given.object_rates
    }
    show(
        {
            "scan": given.scan.name,
            "machine": machine(),
            "patterns": len(scan),
            "held_out": len(view.held_out),
            "settings": {"modes": given.modes, "seed": given.seed, "train": given.train, "longest": given.epochs},
            "bound": {"held_out_R": given.bound},
            "training": trained,
            "saved": {rate: saving(rows_by_start) for rate, rows_by_start in fits.items()},
            "saved_at_the_best_rate_of_each": saving({start: best(fits, start) for start in starts}),
            "fits": fits,
        }
    )


def middle(scan: Scan, count: int | None) -> Scan:
    """The patterns nearest to the middle of the scan, in their order."""
    if count is None:
        return scan
    distance = np.abs(scan.positions_px - np.median(scan.positions_px, axis=0)).max(axis=1)
    rows = np.sort(np.argsort(distance, kind="stable")[:count])
    return replace(
        scan,
        measurements=scan.measurements[rows],
        positions_px=scan.positions_px[rows],
        scan_index=scan.scan_index[rows],
    )


def started(
    scan: Scan, work: Path, given: argparse.Namespace
) -> tuple[PreparedScan, dict[str, Object], NDArray[np.complex64], dict[str, Any]]:
    """The scan as split, objects to start from, the calibrated probe, and what training and inference cost."""
    np.save(work / "held.npy", np.sort(np.random.default_rng(0).permutation(len(scan))[: round(len(scan) / 10)]))
    write_scan(work / "scan.npz", scan)
    view = prepare_scan(scan, str(work / "held.npy"), given.seed)
    keep = ("--hold-out", str(work / "held.npy"))
    model = work / "model" / "model.safetensors"
    summary = command(
        work / "model",
        "train",
        work / "scan.npz",
        *keep,
        "--modes",
        str(given.modes),
        "--epochs",
        "1",
        "--seed",
        str(given.seed),
        *shlex.split(given.train),
    )
    image = command(work / "image", "infer", model, work / "scan.npz", *keep)
    network = read_reconstruction(work / "image" / "object.npz").object
    trained = load_bundle(model).model
    probe: NDArray[np.complex64] = trained.probe.numpy()
    # Fresh nets add nothing (specs/training.md, NET-7): the same passes, without what was learned.
    physics = infer_on_canvas(BACKEND, PtychoModel(trained.config, probe).eval(), view)
    cost = training_figures(summary) | {
        "calibration_cpu_s": round(summary["cpu_seconds"].get("calibration", 0.0), 2),
        "inference_cpu_s": round(image["cpu_seconds"]["inference"], 2),
    }
    starts = {"empty_space": np.ones(network.shape, np.complex64), "physics": physics, "network": network}
    return view, starts, probe, cost


def reconstructed(
    view: PreparedScan, start: Object, probe: NDArray[np.complex64], given: argparse.Namespace, rate: float
) -> dict[str, Any]:
    """Held-out R of the start (0 epochs) and after complete fits of 1, 2, ... epochs."""
    config = ReconstructionConfig(object_learning_rate=rate, seed=given.seed)
    rows = [{"epochs": 0, "held_out_R": residual(view, start, probe), "cpu_s": 0.0}]
    for epochs in range(1, given.epochs + 1):
        if given.stop and rows[-1]["held_out_R"] <= given.bound:
            break
        begin = time.process_time()
        fit = BACKEND.joint_fit(
            view.source,
            view.sites,
            probe,
            device="cpu",
            indices=view.used,
            mean_counts=view.mean_counts,
            epochs=epochs,
            batch_size=config.batch_size,
            object_learning_rate=config.object_learning_rate,
            probe_learning_rate=config.probe_learning_rate,
            loss=config.loss,
            seed=config.seed,
            object_start=start,
        )
        spent = round(time.process_time() - begin, 2)
        rows.append({"epochs": epochs, "held_out_R": residual(view, fit.object, fit.probe), "cpu_s": spent})
    least = next((row["epochs"] for row in rows if row["held_out_R"] <= given.bound), None)
    return {"least_epochs": least, "by_epochs": rows}


def residual(view: PreparedScan, object_: Object, probe: NDArray[np.complex64]) -> float:
    """R of the patterns held out, which no stage has used."""
    normalised = normalised_probe(probe, view.mean_counts)
    value = BACKEND.residual(view.source, object_, normalised, view.sites, view.held_out, device="cpu").value
    if value is None:
        raise SystemExit("nothing is held out: give more patterns")
    return round(value, 5)


def best(fits: dict[str, dict[str, Any]], start: str) -> dict[str, Any]:
    """The fit from a start that reached the bound in the fewest epochs, over all rates."""
    least = [rows_by_start[start]["least_epochs"] for rows_by_start in fits.values()]
    return {"least_epochs": min((epochs for epochs in least if epochs is not None), default=None)}


def saving(rows_by_start: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Least epochs from each start, and the fraction that an image saves of those from empty space."""
    least = {start: row["least_epochs"] for start, row in rows_by_start.items()}
    baseline = least["empty_space"]
    fractions = {
        f"saved_by_{start}": None if None in (baseline, epochs) or not baseline else round(1 - epochs / baseline, 3)
        for start, epochs in least.items()
        if start != "empty_space"
    }
    return {"least_epochs": least, **fractions}


if __name__ == "__main__":
    main()
