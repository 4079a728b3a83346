"""How many of ten trainings, from ten seeds, infer an object that they never saw; prints JSON.

usage: python benchmarks/reliability.py [--N 64|128] [--seeds 10] [--groups G] [--probe FILE.npz] [--train "OPTIONS"]

Each seed simulates two scans of different objects, trains on one of them with that seed (one pass over ``--groups``
groups; OPTIONS go to ``ptycho-cli train`` and win), and infers the other with the network alone. The comparison is an
image by a network that has learned nothing (learning rate 1e-12), which is what the physics alone gives. A trained
network is good from a mean-free complex correlation of 0.8 (specs/metrics.md), and lost where it stays below 0.1 or
its training diverged. Lost networks that no report called collapsed or diverged are missed; trainings made to fail
must be reported, too. Ends with 1 where anything was missed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from command_runs import CommandFailed, against_truth, command, training_figures
from measuring import machine, show
from ptycho_contracts.records import Scan
from ptycho_data.files import write_scan
from ptycho_data.simulate import measured, simulate

GOOD, LOST = 0.8, 0.1
OTHER_SEED = 1000
"""Added to a seed for the object that is inferred."""
BUDGET = {64: {"patterns": 600, "step_px": 5.0, "groups": 900}, 128: {"patterns": 300, "step_px": 10.0, "groups": 480}}
"""Scan and training groups for patterns of N x N: about 25 and 50 CPU s of training."""
NOTHING = ("--epochs", "1", "--n-groups", "20", "--learning-rate", "1e-12")
FORCED = {
    "learning_rate_0.03": ("--learning-rate", "0.03", "--n-groups", "96", "--epochs", "1"),
    "learning_rate_1e4": ("--learning-rate", "1e4", "--n-groups", "96", "--epochs", "1"),
    "cnn_after_5_steps": ("--architecture", "cnn", "--width", "4", "--n-groups", "80", "--epochs", "1"),
}
"""Trainings that cannot succeed: steps that ruin the nets; a network without physics that hardly sees data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--N", type=int, choices=sorted(BUDGET), default=64)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--patterns", type=int, default=None, help="patterns of each scan")
    parser.add_argument("--groups", type=int, default=None, help="training groups, each seen once")
    parser.add_argument("--photons", type=float, default=1e5)
    parser.add_argument("--object-kind", default="lines")
    parser.add_argument("--probe", type=Path, default=None, help=".npz with a measured probeGuess of N x N")
    parser.add_argument("--train", default="", help="further options of ptycho-cli train, as one string")
    given = parser.parse_args()
    given.patterns = given.patterns or BUDGET[given.N]["patterns"]
    given.groups = given.groups or BUDGET[given.N]["groups"]
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        rows = [attempt(Path(name) / f"seed-{seed}", given, seed) for seed in seeds]
        forced = {
            words: attempt(Path(name) / words, given, given.first_seed, forced=options)
            for words, options in FORCED.items()
        }
    missed = sum(row["missed"] for row in (*rows, *forced.values()))
    # A training that survives what was meant to ruin it has nothing to report.
    undetected = [words for words, row in forced.items() if not row["reported"] and (row["correlation"] or 0) < GOOD]
    show(
        {
            "N": given.N,
            "machine": machine(),
            "settings": {
                "patterns": given.patterns,
                "groups": given.groups,
                "epochs": 1,
                "photons": given.photons,
                "step_px": BUDGET[given.N]["step_px"],
                "object_kind": given.object_kind,
                "probe": "defocused_disc" if given.probe is None else given.probe.name,
                "train": given.train,
                "other_object": f"seed + {OTHER_SEED}",
            },
            "seeds": list(seeds),
            "good": sum(row["correlation"] is not None and row["correlation"] >= GOOD for row in rows),
            "reported_collapsed_or_diverged": sum(row["reported"] for row in rows),
            "good_but_reported": sum(row["reported"] and (row["correlation"] or 0) >= GOOD for row in rows),
            "missed": missed,
            "forced_but_unreported": undetected,
            "bound": {"good": 0.8, "of_seeds": 1.0, "missed": 0},
            "by_seed": rows,
            "forced": forced,
        }
    )
    sys.exit(bool(missed or undetected))


def attempt(work: Path, given: argparse.Namespace, seed: int, *, forced: tuple[str, ...] | None = None) -> Any:
    """Train with one seed, infer the other object; whether that was reported to have failed."""
    work.mkdir()
    training, other = (scan_of(given, number) for number in (seed, seed + OTHER_SEED))
    write_scan(work / "training.npz", training)
    write_scan(work / "other.npz", replace(other, object_truth=None, object_origin_yx_px=None))
    budget = ("--n-groups", str(given.groups), "--epochs", "1", *shlex.split(given.train))
    row: dict[str, Any] = {"seed": seed}
    row |= trained(work / "model", work, other, seed, budget if forced is None else forced)
    if forced is None:
        nothing = trained(work / "nothing", work, other, seed, (*shlex.split(given.train), *NOTHING))
        row["correlation_untrained"] = nothing["correlation"]
    lost = row["diverged"] or (row["correlation"] or 0) < LOST
    return row | {
        "reported": row["diverged"] or row["collapsed"],
        "missed": lost and not (row["diverged"] or row["collapsed"]),
    }


def scan_of(given: argparse.Namespace, seed: int) -> Scan:
    """A simulated scan of a random object; its probe is called exact."""
    probe = None if given.probe is None else measured(given.probe)
    return simulate(
        object_kind=given.object_kind,
        N=given.N,
        n_patterns=given.patterns,
        step_px=BUDGET[given.N]["step_px"],
        photons_per_pattern=given.photons,
        seed=seed,
        probe=probe,
    )


def trained(out: Path, work: Path, other: Scan, seed: int, options: tuple[str, ...]) -> dict[str, Any]:
    """One training and the image of the other object by its network alone."""
    row: dict[str, Any] = {"diverged": False, "collapsed": False, "correlation": None}
    try:
        row |= training_figures(command(out, "train", work / "training.npz", "--seed", str(seed), *options))
    except CommandFailed as failure:
        if "diverged" not in str(failure):
            raise
        return row | {"diverged": True, "said": str(failure).splitlines()[-1]}
    inferred = command(out / "image", "infer", out / "model.safetensors", work / "other.npz")
    score = against_truth(out / "image", other)
    return row | {
        "correlation": score.pop("complex_correlation"),
        **score,
        "residual": inferred["residual"]["used"],
        "inference_cpu_s": round(inferred["cpu_seconds"]["inference"], 2),
    }


if __name__ == "__main__":
    main()
