"""How good an image a network gives after 1,024 training patterns of one object; prints JSON.

usage: python benchmarks/patterns.py [SYNTH.npz] [--probe FILE.npz] [--patterns 1024] [--train "OPTIONS"]...

Row "published" has the kind of data of [PtychoPINN]: an object of lines, 64 x 64 pixels, 1e6 photons, under a simulated
probe or the ``probeGuess`` of FILE.npz. Row "synth", where SYNTH.npz is given: 1e5 photons, its probe, and its own
scan with ``objectGuess`` as the object that is inferred. The network sees patterns of one simulated object and infers
another one, without refinement. Each ``--train`` is one more training; its options go to ``ptycho-cli train``. Without
any, the defaults are trained. The comparison is the image by a network that has learned nothing (learning rate 1e-12).
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from command_runs import against_truth, command, training_figures
from measuring import machine, show
from ptycho_contracts.records import Scan
from ptycho_data.files import read_scan, write_scan
from ptycho_data.simulate import measured, simulate

BOUND = {"phase_ssim": 0.85}
"""Published in [PtychoPINN] for 1,024 patterns."""
NOTHING = ("--epochs", "1", "--n-groups", "20", "--learning-rate", "1e-12")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", default=None)
    parser.add_argument("--probe", type=Path, default=None, help=".npz with a measured probeGuess of 64 x 64")
    parser.add_argument("--patterns", type=int, default=1024, help="training patterns")
    parser.add_argument("--imaged", type=int, default=1024, help="patterns of the simulated object that is inferred")
    parser.add_argument("--step-px", type=float, default=5.0)
    parser.add_argument("--object-kind", default="lines", help="of the training object, and of the inferred one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("published", "synth"), default=None)
    parser.add_argument("--train", action="append", default=None, help="options of ptycho-cli train, as one string")
    given = parser.parse_args()
    rows = {name: scans for name, scans in pairs(given).items() if given.only in (None, name)}
    with tempfile.TemporaryDirectory(prefix="patterns-") as name:
        results = {
            row: images(Path(name) / row, *scans, given.train or [""], given.seed) for row, scans in rows.items()
        }
    show(
        {
            "machine": machine(),
            "settings": {
                "training_patterns": given.patterns,
                "step_px": given.step_px,
                "seed": given.seed,
                "object_kind": given.object_kind,
                "other_seed": given.seed + 1000,
                "probe": "defocused_disc" if given.probe is None else given.probe.name,
            },
            "bound": BOUND,
            **results,
        }
    )


def pairs(given: argparse.Namespace) -> dict[str, tuple[Scan, Scan]]:
    """For each row the scan to train on and the scan to infer, both with truth."""
    recipe: dict[str, Any] = {"object_kind": given.object_kind, "step_px": given.step_px}
    published = recipe | {"photons_per_pattern": 1e6, "probe": None if given.probe is None else measured(given.probe)}
    rows = {
        "published": (
            simulate(n_patterns=given.patterns, seed=given.seed, **published),
            simulate(n_patterns=given.imaged, seed=given.seed + 1000, **published),
        )
    }
    if given.scan is not None:
        scan = replace(read_scan(given.scan, object_is_truth=True), probe_kind="exact")
        own = simulate(n_patterns=given.patterns, seed=given.seed, photons_per_pattern=1e5, probe=scan.probe, **recipe)
        rows["synth"] = (own, scan)
    return rows


def images(work: Path, training: Scan, other: Scan, options: list[str], seed: int) -> list[dict[str, Any]]:
    """One row for nothing learned, and one for each set of training options."""
    work.mkdir()
    write_scan(work / "training.npz", training)
    write_scan(work / "other.npz", replace(other, object_truth=None, object_origin_yx_px=None))
    rows = []
    for number, words in enumerate(options):
        architecture = _of_the_network(shlex.split(words))
        for learned, extra in ((False, [*architecture, *NOTHING]), (True, shlex.split(words))):
            out = work / f"{number}-{learned}"
            summary = command(out, "train", work / "training.npz", "--seed", str(seed), *extra)
            image = command(out / "image", "infer", out / "model.safetensors", work / "other.npz")
            rows.append(
                {
                    "train": words,
                    "learned": learned,
                    **against_truth(out / "image", other),
                    "residual": image["residual"]["used"],
                    "poisson_floor": image["poisson_floor"]["used"],
                    "patterns_per_cpu_second": image["patterns_per_cpu_second"],
                    **training_figures(summary),
                }
            )
    return rows


def _of_the_network(words: list[str]) -> list[str]:
    """Those of the options that define the network and its inference, with their values."""
    names = ("--architecture", "--iterations", "--passes", "--width", "--modes", "--gridsize")
    return [word for name, value in pairwise(words) if name in names for word in (name, value)]


if __name__ == "__main__":
    main()
