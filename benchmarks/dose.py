"""What the learned prior gains, by dose: error beside the truth, and CPU seconds, of joint reconstructions.

Objects of simulated kinds (other seeds than the prior was trained on), photographs, and a measured star with its counts
thinned. Beside the likelihood fit stopped by the truth, and total variation with the weight chosen by the truth.
One thread; ``python benchmarks/dose.py [--quick] [--star FILE]`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig
from ptycho_data import workflows
from ptycho_data.files import read_scan
from ptycho_torch.backend import BACKEND
from reference_fits import RATE, TV_WEIGHTS, Case, scan_of

EPOCHS = 30
CASES = [
    ("dead_leaves", 300),
    ("dead_leaves", 1000),
    ("dead_leaves", 3000),
    ("lines", 300),
    ("lines", 1000),
    ("lines", 3000),
    ("lines", 1e4),
    ("lines", 1e5),
    ("random_field", 300),
    ("random_field", 1000),
    ("random_field", 3000),
    ("random_field", 1e4),
    ("photographs", 1000),
    ("photographs", 1e4),
    ("photographs", 1e5),
    ("dead_leaves", 1e4),
    ("dead_leaves", 1e5),
    ("dead_leaves", 1e6),
]


def reconstructed(case: Case, **options: Any) -> tuple[float, float]:
    """Error and CPU seconds of ``reconstruct``."""
    config = ReconstructionConfig(modes=len(case.scan.probe), **options)
    began = time.process_time()
    result, _ = workflows.reconstruct(BACKEND, case.scan, config=config, execution_config=ExecutionConfig())
    return case.error(result.object), time.process_time() - began


def compared(case: Case) -> dict[str, Any]:
    """All methods on one case."""
    objects, seconds = case.course(None, epochs=EPOCHS)
    errors = [case.error(object_) for object_ in objects]
    tv = {weight: case.error(case.course(case.tv(weight), epochs=EPOCHS)[0][-1]) for weight in TV_WEIGHTS}
    known = {"probe_learning_rate": 0.0, "object_learning_rate": RATE}
    prior, prior_seconds = reconstructed(case, prior="network", **known)
    none, none_seconds = reconstructed(case, prior="none", **known)
    default, default_seconds = reconstructed(case)
    best, best_tv = min(errors), min(tv.values())
    return {
        "photons_per_px": round(case.photons_per_px, 1),
        "likelihood_stopped_by_truth": {"error": best, "epoch": errors.index(best) + 1, "cpu_s_30_epochs": seconds},
        "tv_weight_by_truth": {"error": best_tv, "weight": min(tv, key=tv.__getitem__)},
        "prior_known_probe": {
            "error": prior,
            "cpu_s": prior_seconds,
            "over_likelihood": prior / best,
            "over_tv": prior / best_tv,
            "cost": prior_seconds / seconds,
        },
        "none_known_probe": {"error": none, "cpu_s": none_seconds, "over_likelihood": none / best},
        "default": {"error": default, "cpu_s": default_seconds, "over_likelihood": default / best},
    }


def thinned_stars(path: Path) -> Iterator[tuple[str, Case]]:
    """The measured star with a part of its counts; truth is the image of all of them, modes those calibrated on it."""
    full = read_scan(path)
    config = ReconstructionConfig(modes=3, epochs=30, levels=1, prior="none", loss="amplitude")
    image, _ = workflows.reconstruct(BACKEND, full, config=config, execution_config=ExecutionConfig())
    counts = np.rint(full.counts()).astype(np.int64)
    for part in (10, 100, 1000):
        thin = np.random.default_rng(part).binomial(counts, 1 / part).astype(np.float32)
        scan = replace(
            full, measurements=thin, unit="counts", probe=image.probe / np.float32(part**0.5), probe_kind="exact"
        )
        yield f"star 1/{part}", Case(scan, image.object)


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cases only")
    parser.add_argument("--star", type=Path, help="file of the measured star")
    typed = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for kind, photons in CASES[1:20:7] if typed.quick else CASES:
        results[f"{kind} {photons:g}"] = compared(Case(scan_of(kind, photons)))
    for name, case in thinned_stars(typed.star) if typed.star else ():
        results[name] = compared(case)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
