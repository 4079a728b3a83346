"""What the learned prior gains or invents, by overlap: joint reconstructions beside the truth, other fits, and peers.

usage: python benchmarks/overlap.py [--only TEXT ...] [--ptychi PYTHON] [--ptylab PYTHON] [--picture FILE]

Scans of 96 x 96 px with steps of 4 to 24 px, N = 64 and 128, whole-pixel positions, the probe known or guessed (the
true one defocused). Objects that the prior was never trained on (two photographs, a zone plate), and one that it was.
Every image is compared after scale, phase, ramp and shift were removed. Fits that the truth stops, or whose weight it
chooses, have seen the truth: they are bounds, not methods. PYTHON: interpreter of an environment with that peer.
One thread; prints JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ptycho_torch as pt
from measuring import ONE_THREAD, machine, show
from numpy.typing import NDArray
from ptycho_contracts.records import Reconstruction, Scan
from ptycho_data.metrics import Comparison, compare
from ptycho_data.workflows.evaluate import split_in_halves
from reference_fits import BATCH, TV_WEIGHTS, Case, Image, scan_of, squared_error

SPAN_PX = 96
LEAST_STEPS = 300
"""Least steps of the fits that know the truth, where 30 epochs over few patterns are less."""
PROBE_RATE = 0.02
OPTIONS = {"modes": 1, "accelerator": "cpu"}
SHOWN = {
    "truth": "truth",
    "likelihood": "likelihood, epoch by truth",
    "reconstruct_no_prior": "no prior",
    "tv": "TV, weight by truth",
    "reconstruct": "learned prior",
    "pretrained": "pretrained",
}
"""Images of the picture, and their titles."""


@dataclass(frozen=True)
class Setting:
    """One scan."""

    kind: str
    photons: float
    step_px: int
    N: int = 64
    guessed: bool = False
    trained: bool = False

    def __str__(self) -> str:
        probe = "guessed" if self.guessed else "known"
        return f"{self.kind} {self.photons:g} photons step {self.step_px} N {self.N} {probe}"


SETTINGS = [
    *(Setting("photographs", 1e3, step, trained=step in (8, 16)) for step in (4, 8, 16, 24)),
    *(Setting("photographs", 1e5, step, trained=step in (8, 16)) for step in (8, 16, 24)),
    Setting("photographs", 1e3, 8, guessed=True),
    *(Setting("photographs", 1e5, step, guessed=True) for step in (8, 16)),
    Setting("photographs", 1e3, 12, N=128),
    *(Setting("photographs", 1e5, 24, N=128, guessed=guessed) for guessed in (False, True)),
    *(Setting("zone_plate", dose, step) for dose, step in ((1e3, 8), (1e3, 16), (1e5, 16))),
    *(Setting("dead_leaves", dose, step) for dose, step in ((1e3, 8), (1e5, 16))),
]


class Scored:
    """A scan, what its methods are given, and the figures of their images."""

    def __init__(self, setting: Setting) -> None:
        side = SPAN_PX // setting.step_px + 1
        scan = scan_of(
            setting.kind, setting.photons, patterns=side**2, step_px=setting.step_px, N=setting.N, whole_px=True
        )
        self.setting, self.case = setting, Case(scan)
        self.scan: Scan = replace(scan, object_truth=None, object_origin_yx_px=None)
        if setting.guessed:
            self.scan = replace(self.scan, probe=defocused(scan.probe), probe_kind="guess")

    def compared(self, image: Image) -> Comparison:
        return compare(image, self.case.truth, weight=self.case.light)

    def error(self, image: Image) -> float:
        """``sum w |O - T|^2 / sum w |T|^2`` over the scanned area, w the light, at most max |P|^2."""
        aligned = self.compared(image).alignment
        return squared_error(aligned.estimate, aligned.truth, self.case.weight * aligned.mask)

    def phase(self, image: Image) -> NDArray[np.float64]:
        """(H, W) rad, turned and shifted like the truth; NaN outside the scanned area."""
        aligned = self.compared(image).alignment
        return np.where(aligned.mask, np.angle(aligned.estimate), np.nan)

    def figures(self, image: Image, seconds: float, **more: Any) -> dict[str, Any]:
        found = self.compared(image)
        figures = {"error": self.error(image), "phase_ssim": found.phase_ssim, "half_bit": found.frc_half_bit}
        return {**figures, "cpu_s": round(seconds, 2), **more}


def defocused(probe: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The probe further out of focus: the guess."""
    squared = np.add.outer(*2 * [np.fft.fftfreq(probe.shape[-1]) ** 2])
    phase = np.exp(0.3j * np.pi * probe.shape[-1] * squared)
    return np.fft.ifft2(np.fft.fft2(probe) * phase).astype(np.complex64)


Found = Iterator[tuple[str, Image, dict[str, Any]]]


def fits_that_know_the_truth(scored: Scored, epochs: int) -> Found:
    """The likelihood with the best epoch, total variation with the best weight."""
    given, options = Case(scored.scan, scored.case.truth), {"epochs": epochs}
    options |= {"probe_rate": PROBE_RATE if scored.setting.guessed else 0.0}
    objects, seconds = given.course(None, **options)
    errors = [scored.error(object_) for object_ in objects]
    best = int(np.argmin(errors))
    yield "likelihood", objects[best], scored.figures(objects[best], seconds, epoch=best + 1, epochs=epochs)
    images = {}
    for weight in TV_WEIGHTS:
        objects, seconds = given.course(given.tv(weight), **options)
        images[weight] = objects[-1]
    weight = min(images, key=lambda weight: scored.error(images[weight]))
    yield "tv", images[weight], scored.figures(images[weight], seconds, weight=weight)


def ours(scored: Scored, epochs: int) -> Found:
    """What a user runs: nothing here has seen the truth."""
    methods = {
        "reconstruct": lambda: pt.reconstruct(scored.scan, **OPTIONS),
        "reconstruct_longer": lambda: pt.reconstruct(scored.scan, epochs=epochs, **OPTIONS),
        "reconstruct_no_prior": lambda: pt.reconstruct(scored.scan, prior="none", **OPTIONS),
        "pretrained": lambda: pt.infer("pretrained", scored.scan, accelerator="cpu"),
    }
    if scored.setting.trained:
        methods["trained_on_scan"] = lambda: trained(scored.scan)
    for name, method in methods.items():
        began = time.process_time()
        image = method()[0].object
        yield name, image, scored.figures(image, time.process_time() - began)


def trained(scan: Scan) -> tuple[Reconstruction, dict[str, Any]]:
    """One epoch over 400 groups of four, then inference."""
    model, _ = pt.train(scan, epochs=1, n_groups=400, calibrate_probe=False, **OPTIONS)
    return pt.infer(model, scan, accelerator="cpu")


def halves(scored: Scored, **options: Any) -> dict[str, float | None]:
    """Half-bit FRC of two half scans, and the better one beside the truth.

    Where errors are independent, halves agree less with each other than each does with the truth. If they agree
    better, they share an error.
    """
    parts = split_in_halves(np.arange(len(scored.scan)), 0)
    a, b = (pt.reconstruct(scored.scan, hold_out=other, **OPTIONS, **options)[0].object for other in parts)
    between = compare(b, a, weight=scored.case.light).frc_half_bit
    beside = [scored.compared(half).frc_half_bit for half in (a, b)]
    return {"between": between, "beside_truth": max(value or 0.0 for value in beside)}


def peer(scored: Scored, name: str, python: Path, epochs: int) -> tuple[Image, dict[str, Any]]:
    """The peer's image of the best of four epochs by the truth."""
    case, ends = scored.case, [epochs // 8, epochs // 4, epochs // 2, epochs]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "scan.npz", Path(folder) / "images.npz"
        np.savez(
            given,
            counts=scored.scan.counts(),
            corners=case.sites.corners_yx,
            probe=scored.scan.probe[0],
            fit_probe=scored.setting.guessed,
            shape=case.geometry.shape,
            epochs=ends,
        )
        script = Path(__file__).with_name("peer.py")
        subprocess.run([python, script, name, given, found], check=True, stdout=sys.stderr)
        with np.load(found) as file:
            objects, seconds = file["objects"], file["cpu_s"]
    best = int(np.argmin([scored.error(object_) for object_ in objects]))
    return objects[best], scored.figures(objects[best], float(seconds[best]), epochs=ends[best])


def measured(setting: Setting, peers: dict[str, Path]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """All figures of one scan, and the phases."""
    scored = Scored(setting)
    epochs = max(30, LEAST_STEPS // -(-len(scored.scan) // BATCH))
    found = [*fits_that_know_the_truth(scored, epochs), *ours(scored, epochs)]
    found += [(name, *peer(scored, name, python, epochs)) for name, python in peers.items()]
    figures: dict[str, Any] = {name: figures for name, _, figures in found}
    figures["halves_with_prior"], figures["halves_without"] = halves(scored), halves(scored, prior="none")
    size = {"patterns": len(scored.scan), "photons_per_px": round(scored.case.photons_per_px, 1)}
    phases = {"truth": scored.phase(scored.case.truth), **{name: scored.phase(image) for name, image, _ in found}}
    return size | figures, phases


def draw(results: list[tuple[dict[str, Any], dict[str, NDArray[np.float64]]]], path: Path) -> None:
    """Phases, one scan a row, each with its squared error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(SHOWN), 1.75 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(SHOWN), squeeze=False)
    for row, (figures, phases) in zip(axes, results, strict=True):
        low, high = np.nanpercentile(phases["truth"], (1, 99))
        for axis, (name, title) in zip(row, SHOWN.items(), strict=True):
            axis.imshow(phases[name], cmap="viridis", vmin=low, vmax=high)
            axis.set_title(title if name == "truth" else f"{title}: {figures[name]['error']:.3f}", fontsize=7)
            axis.set_axis_off()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="scans whose name holds one of these texts")
    parser.add_argument("--ptychi", type=Path)
    parser.add_argument("--ptylab", type=Path)
    parser.add_argument("--picture", type=Path, help="PNG with the phases")
    given = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:  # numerical libraries read it when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    peers = {name: python for name in ("ptychi", "ptylab") if (python := getattr(given, name))}
    chosen = [setting for setting in SETTINGS if any(text in str(setting) for text in given.only)]
    results = {str(setting): measured(setting, peers) for setting in chosen}
    if given.picture:
        draw(list(results.values()), given.picture)
    show({"machine": machine(), "results": {name: figures for name, (figures, _) in results.items()}})


if __name__ == "__main__":
    main()
