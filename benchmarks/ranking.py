"""Does a lower loss mean a better object? Control sets with known truth; prints JSON.

usage: python benchmarks/ranking.py [SYNTH.npz] [--patterns 400] [--without-runs] [--train "OPTIONS"]

The scan is simulated, or SYNTH.npz with its ``objectGuess``. Each family disturbs the true object in one way at
growing strength, or holds unfinished results: joint fits of few epochs with the true probe, and networks after short
trainings and with few passes. All objects are scored with the true probe against the same noisy counts, on patterns
that no run has used (a tenth, held out) and on the used ones: Poisson and amplitude loss (specs/physics.md, PHY-16,
PHY-17; float64). The object's error is the RMSE of the complex field in the scanned area after scale, phase, ramp and
shift are removed (specs/metrics.md, MET-2 to MET-6). Figures: Spearman's rank correlation of loss and error, by family
and over all objects; and the fraction of pairs that the loss orders correctly, of those whose errors differ by a tenth
or more, as the order of near ties says little. One thread.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_runs import command
from measuring import machine, show, timed
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.records import Scan
from ptycho_data.batches.gathering import mean_counts
from ptycho_data.canvas import scan_sites
from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry
from ptycho_data.files import read_reconstruction, read_scan, write_scan
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.metrics import align
from ptycho_data.simulate import simulate
from ptycho_torch.losses import LOSSES
from ptycho_torch.physics import Placement, extract_patches, illumination, to_corner
from ptycho_torch.physics import simulate as far_field
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

BOUND = 0.9
NOISE = (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1, 0.2)
BLUR_PX = (0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0)
SMOOTH_PHASE_RAD = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
SCALED_AMPLITUDE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
FIT_EPOCHS = (1, 2, 3, 5, 8, 12, 20)
NETWORKS = tuple((passes, groups) for passes in (1, 2, 4, 8) for groups in (20, 320))
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Candidate:
    """An object on the scan's canvas, and what was done to it."""

    family: str
    strength: float | str
    object: NDArray[np.complex128]


class Scorer:
    """Losses and errors of objects on the canvas of one scan with known truth."""

    def __init__(self, scan: Scan, held: NDArray[np.int64]) -> None:
        self.scan, self.geometry = scan, canvas_geometry(scan.positions_px, scan.N)
        sites = Placement.of(scan_sites(scan.positions_px, self.geometry, scan.N))
        self._sites = Placement(sites.corners_yx, sites.fractions_yx.double(), sites.shape, sites.N)
        self._probe = torch.from_numpy(normalised_probe(scan.probe, 1.0).astype(np.complex128))
        self._mean_counts = mean_counts(scan)[int(scan.scan_index[0])]
        self.weight = illumination(self._probe, self._sites).numpy()
        self.truth = on_canvas(scan, self.geometry)
        self._parts = {"held_out": held, "used": np.setdiff1d(np.arange(len(scan)), held)}

    def figures(self, candidate: Candidate) -> dict[str, Any]:
        row: dict[str, Any] = {"family": candidate.family, "strength": candidate.strength}
        aligned = align(candidate.object, self.truth, weight=self.weight)
        error = np.abs(aligned.estimate - aligned.truth)[aligned.mask]
        row["error"] = float(np.sqrt(np.mean(error**2)))
        for part, indices in self._parts.items():
            row |= {f"{kind}_{part}": value for kind, value in self._losses(candidate.object, indices).items()}
        return row

    def _losses(self, object_: NDArray[np.complex128], indices: NDArray[np.int64]) -> dict[str, float]:
        """Both losses over all patterns at ``indices``; a loss is a sum over counts, so chunks add up."""
        canvas, eps = torch.from_numpy(object_), EPS_COUNTS / self._mean_counts
        sums, total = dict.fromkeys(LOSSES, 0.0), 0.0
        for first in range(0, len(indices), _CHUNK):
            rows = indices[first : first + _CHUNK]
            measured = to_corner(torch.from_numpy(self.scan.counts(rows)).double()) / self._mean_counts
            simulated = far_field(extract_patches(canvas, self._sites[torch.from_numpy(rows)]), self._probe)
            counts = float(measured.sum())
            for kind, loss in LOSSES.items():
                sums[kind] += float(loss(simulated, measured, eps=eps)) * counts
            total += counts
        return {kind: value / total for kind, value in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", default=None)
    parser.add_argument("--patterns", type=int, default=400)
    parser.add_argument("--photons", type=float, default=1e5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-runs", action="store_true", help="leave out joint fits and networks")
    parser.add_argument("--train", default="", help="further options of ptycho-cli train, as one string")
    given = parser.parse_args()
    scan = scan_of(given)
    held = np.sort(np.random.default_rng(given.seed).permutation(len(scan))[: round(len(scan) / 10)])
    scorer = Scorer(scan, held)
    rows: list[dict[str, Any]] = []

    def work() -> None:
        candidates = list(disturbed(scorer, given.seed))
        if not given.without_runs:
            with tempfile.TemporaryDirectory(prefix="ranking-") as name:
                candidates += runs(scan, scorer, held, Path(name), given)
        rows.extend(scorer.figures(candidate) for candidate in candidates)

    cost = timed(work)
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    show(
        {
            "scan": "simulated" if given.scan is None else given.scan.name,
            "machine": machine(),
            "settings": {
                "patterns": len(scan),
                "held_out": len(held),
                "seed": given.seed,
                "train": given.train,
                "photons": float(np.mean(list(mean_counts(scan).values()))),
            },
            "scoring_cpu_s": cost["cpu_s"],
            "runs_cpu_s": round(commands.ru_utime + commands.ru_stime, 2),
            "bound": BOUND,
            "rank_correlation": {
                f"{kind}_{part}": by_family(rows, f"{kind}_{part}") for part in ("held_out", "used") for kind in LOSSES
            },
            "objects": rows,
        }
    )


def scan_of(given: argparse.Namespace) -> Scan:
    """The scan with its truth; its probe is called exact."""
    if given.scan is not None:
        return replace(read_scan(given.scan, object_is_truth=True), probe_kind="exact")
    return simulate(
        object_kind="dead_leaves", n_patterns=given.patterns, photons_per_pattern=given.photons, seed=given.seed
    )


def on_canvas(scan: Scan, geometry: CanvasGeometry) -> NDArray[np.complex128]:
    """The true object's pixels of the scan's canvas."""
    y, x = (geometry.origin_yx_px - scan.object_origin_yx_px).astype(int)
    truth = scan.object_truth.astype(np.complex128)[y : y + geometry.shape[0], x : x + geometry.shape[1]]
    if min(y, x) < 0 or truth.shape != geometry.shape:
        raise SystemExit("the true object does not cover the scan")
    return truth


def disturbed(scorer: Scorer, seed: int) -> Iterator[Candidate]:
    """The truth, and the truth disturbed in four ways."""
    truth, rng = scorer.truth, np.random.default_rng(seed)
    noise = (rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)) / np.sqrt(2)
    smooth = gaussian_filter(rng.normal(size=truth.shape), scorer.scan.N / 2)
    smooth = (smooth - smooth.mean()) / smooth.std()
    parts = gaussian_filter(rng.normal(size=truth.shape), scorer.scan.N / 8) > 0
    yield Candidate("truth", 0.0, truth)
    for strength in NOISE:
        yield Candidate("white_noise", strength, truth + strength * noise)
    for strength in BLUR_PX:
        blurred = gaussian_filter(truth.real, strength) + 1j * gaussian_filter(truth.imag, strength)
        yield Candidate("blur", strength, blurred)
    for strength in SMOOTH_PHASE_RAD:
        yield Candidate("smooth_phase", strength, truth * np.exp(1j * strength * smooth))
    for strength in SCALED_AMPLITUDE:
        yield Candidate("scaled_amplitude", strength, truth * np.where(parts, 1 - strength, 1))


def runs(scan: Scan, scorer: Scorer, held: NDArray[np.int64], work: Path, given: argparse.Namespace) -> list[Candidate]:
    """Unfinished results: joint fits, and networks trained on another object under the same probe."""
    bare = {"object_truth": None, "object_origin_yx_px": None}
    np.save(work / "held.npy", held)
    write_scan(work / "scan.npz", replace(scan, **bare))
    other = simulate(probe=scan.probe, N=scan.N, n_patterns=400, photons_per_pattern=1e5, seed=given.seed + 1000)
    write_scan(work / "other.npz", replace(other, **bare))
    keep = ("--hold-out", str(work / "held.npy"))
    candidates = []
    for epochs in FIT_EPOCHS:
        out = work / f"fit-{epochs}"
        command(
            out,
            "reconstruct",
            work / "scan.npz",
            *keep,
            "--modes",
            "1",
            "--probe-learning-rate",
            "0",
            "--epochs",
            str(epochs),
            "--seed",
            str(given.seed),
        )
        candidates.append(Candidate("joint_fit", epochs, image_of(out, scorer)))
    for passes, groups in NETWORKS:
        out = work / f"network-{passes}-{groups}"
        command(
            out,
            "train",
            work / "other.npz",
            "--passes",
            str(passes),
            "--n-groups",
            str(groups),
            "--epochs",
            "1",
            "--seed",
            str(given.seed),
            *shlex.split(given.train),
        )
        command(out / "image", "infer", out / "model.safetensors", work / "scan.npz", *keep)
        candidates.append(Candidate("network", f"{passes} passes, {groups} groups", image_of(out / "image", scorer)))
    return candidates


def image_of(folder: Path, scorer: Scorer) -> NDArray[np.complex128]:
    image = read_reconstruction(folder / "object.npz")
    if image.object.shape != scorer.truth.shape or (image.origin_yx_px != scorer.geometry.origin_yx_px).any():
        raise SystemExit(f"{folder}: an image on another canvas")
    return image.object.astype(np.complex128)


def by_family(rows: list[dict[str, Any]], loss: str) -> dict[str, Any]:
    """Rank correlation of a loss with the error: each family beside the truth, and all objects as one set.

    Objects whose loss lies below the truth's, and the excess over the truth's loss for one unit of square error
    (median of a family), explain why some families do not mix well.
    """
    (truth,) = (row for row in rows if row["family"] == "truth")
    families = {row["family"]: [other for other in rows if other["family"] == row["family"]] for row in rows[1:]}
    ranks = {
        name: _rank(mine if name in ("joint_fit", "network") else [truth, *mine], loss)
        for name, mine in families.items()
    }
    pairs = {name: _ordered([truth, *mine], loss) for name, mine in families.items()}
    excess = {
        name: float(np.median([(row[loss] - truth[loss]) / row["error"] ** 2 for row in mine]))
        for name, mine in families.items()
    }
    return {
        "by_family": ranks,
        "pairs_ordered": pairs | {"all": _ordered(rows, loss)},
        "below_bound": [name for name, value in ranks.items() if value < BOUND],
        "all": _rank(rows, loss),
        "all_but_smooth_phase": _rank([row for row in rows if row["family"] != "smooth_phase"], loss),
        "below_truth": [f"{row['family']} {row['strength']}" for row in rows if row[loss] < truth[loss]],
        "excess_loss_by_square_error": {name: round(value, 4) for name, value in excess.items()},
    }


def _ordered(rows: list[dict[str, Any]], loss: str) -> float:
    """Fraction of the pairs with errors a tenth or more apart in which the lower loss is the lower error."""
    pairs = [sorted(pair, key=lambda row: float(row["error"])) for pair in combinations(rows, 2)]
    apart = [better[loss] < worse[loss] for better, worse in pairs if worse["error"] > 1.1 * better["error"]]
    return round(float(np.mean(apart)), 4)


def _rank(rows: list[dict[str, Any]], loss: str) -> float:
    return round(float(spearmanr([row[loss] for row in rows], [row["error"] for row in rows]).statistic), 4)


if __name__ == "__main__":
    main()
