"""Scores of an image beside a truth, or of a scan without one (specs/cli.md, CLI-16 to CLI-19). No framework here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from ptycho_cli.output.progress import Progress
from ptycho_contracts.config import ReconstructionConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.checks.advice import Advice, advise, over_floor

if TYPE_CHECKING:
    from ptycho_data.metrics import Comparison, FrcCurve

Summary = dict[str, Any]
Reconstruct = Callable[..., tuple[Reconstruction, Summary]]
"""``reconstruct(data_file, config=, progress=) -> (Reconstruction, summary)`` of a backend, the rest bound."""

LEAST_PATTERNS = 8
FIGURES = (
    ("complex_correlation", "complex correlation"),
    ("amplitude_rmse", "amplitude RMSE"),
    ("amplitude_mae", "amplitude MAE"),
    ("amplitude_ssim", "amplitude SSIM"),
    ("amplitude_psnr_db", "amplitude PSNR [dB]"),
    ("phase_rmse_rad", "phase RMSE [rad]"),
    ("phase_mae_rad", "phase MAE [rad]"),
    ("phase_ssim", "phase SSIM"),
    ("phase_psnr_db", "phase PSNR [dB]"),
    ("frc_half", "resolution, FRC 0.5 [Nyquist]"),
    ("frc_half_bit", "resolution, FRC half-bit [Nyquist]"),
    ("n_pixels", "pixels scored"),
)


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Outcome of an evaluation.

    Attributes:
        comparison: Image beside truth, or one half's image beside the other's.
        names: What its two images are.
        report: JSON values.
        curves: FRC curves by name, the last one that of the comparison.
        advice: What to try; empty beside a truth.
        convergence: Losses of each epoch by name; empty beside a truth.
        floor: Poisson floor of R, where the losses are comparable with R.
    """

    comparison: Comparison
    names: tuple[str, str]
    report: Summary
    curves: Mapping[str, FrcCurve]
    advice: tuple[Advice, ...] = ()
    convergence: Mapping[str, list[float]] | None = None
    floor: float | None = None


def beside_truth(image: Path, truth: Path, *, measurement: str = "auto", nphotons: float | None = None) -> Evaluated:
    """Score a reconstruction against the truth of a scan, or against another reconstruction.

    Raises:
        MissingFileError: no such file.
        ContractError: not such files, no truth in the scan, or no scanned pixel in common.
    """
    from ptycho_cli.commands.inspect import is_reconstruction

    from ptycho_data.files import read_reconstruction, read_scan
    from ptycho_data.metrics import compare

    estimate = read_reconstruction(image)
    weight: NDArray[np.float32] | None = None
    if is_reconstruction(truth):
        other = read_reconstruction(truth)
        wanted, origin, weight = other.object, other.origin_yx_px, other.weight
    else:
        scan = read_scan(truth, measurement=measurement, nphotons=nphotons)
        wanted, origin = _true_object(truth, scan)
    comparison = compare(
        estimate.object,
        wanted,
        weight=estimate.weight,
        truth_weight=weight,
        estimate_origin_yx_px=estimate.origin_yx_px,
        truth_origin_yx_px=origin,
    )
    report = {"kind": "truth", "figures": comparison.to_dict(), "frc": curve_of(comparison.frc)}
    return Evaluated(comparison, ("truth", "image"), report, {"image beside truth": comparison.frc})


def _true_object(path: Path, scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    if scan.object_truth is None or scan.object_origin_yx_px is None:
        about = scan.metadata.get("object")
        reason = about.get("reason") if isinstance(about, Mapping) else None
        raise ContractError(
            Problem(
                str(path),
                "scan.no_truth",
                "a scan with its true object, or an object.npz",
                "a scan without truth" + (f" ({reason})" if reason else ""),
                "evaluate without truth: evaluate --scan FILE",
            )
        )
    return scan.object_truth, scan.object_origin_yx_px


def split_in_halves(used: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint halves of some pattern indices, each ascending: ``default_rng(seed).permutation(used)``, cut."""
    order = np.random.default_rng(seed).permutation(used)
    middle = (len(order) + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def without_truth(
    data: Path,
    *,
    reconstruct: Reconstruct,
    config: ReconstructionConfig,
    measurement: str = "auto",
    nphotons: float | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Reconstruct a scan, two disjoint halves of it, and the halves with half the epochs (CLI-17).

    Args:
        data: The scan's file.
        reconstruct: A backend's function.
        config: Settings of every descent; ``hold_out`` patterns are in no half.
        measurement, nphotons: As for :func:`ptycho_data.files.read_scan`.
        progress: Called as ``progress(stage, done, total)``, each stage named after its part.

    Raises:
        ContractError: bad data, or too few patterns to halve.
        WorkFailedError: a descent diverged.
    """
    from ptycho_data.files import read_scan
    from ptycho_data.grouping.selection import held_out_indices, used_indices
    from ptycho_data.metrics import compare

    scan = read_scan(data, measurement=measurement, nphotons=nphotons)
    used = used_indices(held_out_indices(config.hold_out, len(scan), config.seed), len(scan))
    _require_enough(data, used)
    with tempfile.TemporaryDirectory(prefix="ptycho-evaluate-") as folder:
        halves = _Halves(Path(folder), len(scan), split_in_halves(used, config.seed), reconstruct, progress)
        reading: Mapping[str, Any] = {"measurement": measurement, "nphotons": nphotons}
        image, full = reconstruct(data, config=config, progress=named("all patterns", progress), **reading)
        if scan.probe is None:
            # Two searches could end in different probes, and the halves would differ for a reason of their own.
            data, reading = halves.with_probe(scan, image), {}
        del scan
        late = halves.reconstructed(data, config, reading)
        early = None
        if config.epochs > 1:
            early = halves.reconstructed(data, replace(config, epochs=config.epochs // 2), reading, name=", early")
    comparison, before = (
        None if pair is None else _compared(compare, pair[0][0], pair[1][0]) for pair in (late, early)
    )
    assert comparison is not None
    return _judged(config, full, (late[0][1], late[1][1]), comparison, before, early, halves.sizes)


class _Halves:
    """The two halves as files of indices to hold out, and the runs on them."""

    def __init__(
        self,
        folder: Path,
        M: int,
        halves: tuple[NDArray[np.int64], NDArray[np.int64]],
        reconstruct: Reconstruct,
        progress: Progress | None,
    ) -> None:
        self.folder, self.sizes, self._reconstruct, self._progress = (
            folder,
            list(map(len, halves)),
            reconstruct,
            progress,
        )
        self._rest = [folder / f"not_in_{name}.npy" for name in ("a", "b")]
        for path, members in zip(self._rest, halves, strict=True):
            np.save(path, np.setdiff1d(np.arange(M), members))

    def with_probe(self, scan: Scan, image: Reconstruction) -> Path:
        """The scan as a file with the probe of a reconstruction."""
        from ptycho_data.files import write_scan

        path = self.folder / "with_probe.npz"
        write_scan(path, replace(scan, probe=image.probe, probe_kind="guess"))
        return path

    def reconstructed(
        self, data: Path, config: ReconstructionConfig, reading: Mapping[str, Any], *, name: str = ""
    ) -> list[tuple[Reconstruction, Summary]]:
        """Both halves with the same settings; each holds out all that it does not own."""
        return [
            self._reconstruct(
                data,
                config=replace(config, hold_out=str(rest)),
                progress=named(f"half {half}{name}", self._progress),
                **reading,
            )
            for half, rest in zip("ab", self._rest, strict=True)
        ]


def named(part: str, progress: Progress | None) -> Progress | None:
    """A callback whose stages begin with a part's name."""
    if progress is None:
        return None

    def callback(stage: str, done: int, total: int) -> None:
        progress(f"{part}: {stage}", done, total)

    return callback


def _require_enough(data: Path, used: NDArray[np.int64]) -> None:
    if len(used) < LEAST_PATTERNS:
        raise ContractError(
            Problem(
                str(data),
                "evaluate.patterns",
                f"at least {LEAST_PATTERNS} patterns to halve",
                f"{len(used)} used",
                "evaluate a larger scan, or hold out fewer patterns",
            )
        )


def _compared(compare: Callable[..., Comparison], a: Reconstruction, b: Reconstruction) -> Comparison:
    return compare(
        b.object,
        a.object,
        weight=b.weight,
        truth_weight=a.weight,
        estimate_origin_yx_px=b.origin_yx_px,
        truth_origin_yx_px=a.origin_yx_px,
    )


def _judged(
    config: ReconstructionConfig,
    full: Summary,
    halves: tuple[Summary, Summary],
    comparison: Comparison,
    before: Comparison | None,
    early: list[tuple[Reconstruction, Summary]] | None,
    sizes: list[int],
) -> Evaluated:
    """Figures, advice and curves of the five runs."""
    residual, floor = full["residual"], full["poisson_floor"]
    epochs = full.get("epochs", config.epochs)
    epochs_before = None if early is None else early[0][1].get("epochs", config.epochs // 2)
    # Stopped by the clock, both runs had the same epochs: they say nothing of a trend.
    fewer = before is not None and epochs_before is not None and epochs_before < halves[0].get("epochs", epochs)
    advice = advise(
        residual=residual["used"],
        floor=floor["used"],
        held_out=residual.get("held_out"),
        modes=config.modes,
        epochs=epochs,
        half_bit=comparison.frc_half_bit,
        half_bit_before=before.frc_half_bit if fewer and before is not None else None,
        corrects_positions=config.correct_positions,
        fits_background=config.fit_background,
    )
    report = {
        "kind": "half scans",
        **full,
        "residual_over_floor": {part: over_floor(residual.get(part), floor.get(part)) for part in ("used", "held_out")},
        "frc": curve_of(comparison.frc),
        "agreement": comparison.to_dict(),
        "halves": [
            {
                "patterns": size,
                **{key: half.get(key) for key in ("residual", "poisson_floor", "epochs", "seconds", "cpu_seconds")},
            }
            for size, half in zip(sizes, halves, strict=True)
        ],
        "advice": [{"code": entry.code, "text": entry.text} for entry in advice],
    }
    curves = {}
    if fewer and before is not None:
        report["frc_before"] = {"epochs": epochs_before, **curve_of(before.frc)}
        curves[f"{epochs_before} epochs"] = before.frc
    curves[f"{halves[0].get('epochs', epochs)} epochs"] = comparison.frc
    named_losses = zip(("all patterns", "half a", "half b"), (full, *halves), strict=True)
    convergence = {name: list(summary["losses"]) for name, summary in named_losses if summary.get("losses")}
    return Evaluated(
        comparison,
        ("half a", "half b"),
        report,
        curves,
        tuple(advice),
        convergence,
        floor["used"] if config.loss == "amplitude" else None,
    )


def curve_of(curve: FrcCurve) -> Summary:
    """An FRC curve as JSON values; frequencies are fractions of Nyquist."""
    return {
        "half": curve.resolution_half,
        "half_bit": curve.resolution_half_bit,
        "frequency": curve.frequency.tolist(),
        "correlation": curve.correlation.tolist(),
        "half_bit_threshold": curve.half_bit.tolist(),
    }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a person."""
    if report["kind"] == "truth":
        for name, label in FIGURES:
            yield f"{label:<36} {shown(report['figures'][name])}"
        return
    for part, label in (("used", "used patterns"), ("held_out", "held-out patterns")):
        residual, floor = (report[name].get(part) for name in ("residual", "poisson_floor"))
        ratio = report["residual_over_floor"][part]
        if ratio is not None:
            yield f"{label:<36} R {residual:.4g}, {ratio:.2f} times its Poisson floor {floor:.4g}"
    sizes = " + ".join(str(half["patterns"]) for half in report["halves"])
    yield f"{f'half scans ({sizes} patterns)':<36} {_resolution(report['frc'])}"
    before = report.get("frc_before")
    if before is not None:
        label = f"  with {before['epochs']} epochs"
        yield f"{label:<36} {_resolution(before)}"
    for entry in report["advice"]:
        yield f"advice: {entry['text']}"


def _resolution(curve: Mapping[str, Any]) -> str:
    return f"FRC 0.5 at {shown(curve['half'])}, half-bit at {shown(curve['half_bit'])} of Nyquist"


def shown(value: float | None) -> str:
    """A figure for a person; None is one that has no meaning here."""
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
