"""The workflow ``evaluate``: an image beside a truth, or a scan without one (specs/cli.md, CLI-16 to CLI-19)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.checks.advice import Advice, advise, over_floor
from ptycho_data.deadline import Deadline
from ptycho_data.files import is_reconstruction, read_reconstruction
from ptycho_data.grouping import HoldOut, held_out_indices, used_indices
from ptycho_data.metrics import Comparison, FrcCurve, compare
from ptycho_data.stages import Progress, changed
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.reading import opened_scan, require_no_reading
from ptycho_data.workflows.reconstruct import reconstruct
from ptycho_data.workflows.summary import Summary

LEAST_PATTERNS = 8
Run = tuple[Reconstruction, Summary]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Outcome of an evaluation.

    Attributes:
        comparison: Image beside truth, or one half's image beside the other's.
        names: What its two images are.
        report: JSON values.
        curves: FRC curves by name, the last one that of the comparison.
        advice: What to try; empty beside a truth.
        convergence: Losses of each epoch by name; empty beside a truth.
        floor: Poisson floor of R, if the losses are comparable with R.
        prior: The image with the prior beside the one without; None beside a truth, or where no prior is wanted.
        image: The comparison's second image, as it was before it was aligned.
    """

    comparison: Comparison
    names: tuple[str, str]
    report: Summary
    curves: Mapping[str, FrcCurve]
    advice: tuple[Advice, ...] = ()
    convergence: Mapping[str, list[float]] | None = None
    floor: float | None = None
    prior: Comparison | None = None
    image: Reconstruction | None = None


def compare_with_truth(
    image: Reconstruction | Path | str,
    truth: Scan | Reconstruction | Path | str,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
) -> Evaluation:
    """Score a reconstruction against the truth of a scan, or against another reconstruction.

    Args:
        image: A reconstruction, or the path of its file.
        truth: A scan with its true object, another reconstruction, or the path of such a file.
        measurement, nphotons: How a scan's file is read.

    Raises:
        MissingFileError: no such file.
        ContractError: not such files, no truth in the scan, or no scanned pixel in common.
    """
    estimate = image if isinstance(image, Reconstruction) else read_reconstruction(Path(image))
    if isinstance(truth, Path | str) and is_reconstruction(Path(truth)):
        truth = read_reconstruction(Path(truth))
    if isinstance(truth, Reconstruction):
        given = {"measurement": measurement, "nphotons": nphotons}
        require_no_reading(given, "a reconstruction holds no patterns")
        other: Scan | Reconstruction = truth
    else:
        # Who names a file as the truth says that its object is the true one.
        named = not isinstance(truth, Scan)
        other = opened_scan(truth, measurement=measurement, nphotons=nphotons, object_is_truth=named)
    if isinstance(other, Reconstruction):
        true_object, origin, weight = other.object, other.origin_yx_px, other.weight
    else:
        true_object, origin, weight = *_true_object(other), None
    comparison = compare(
        estimate.object,
        true_object,
        weight=estimate.weight,
        truth_weight=weight,
        estimate_origin_yx_px=estimate.origin_yx_px,
        truth_origin_yx_px=origin,
    )
    pixel = estimate.pixel_size_m if estimate.pixel_size_m is not None else other.pixel_size_m
    about = {} if isinstance(other, Reconstruction) else other.metadata.get("object") or {}
    report = {
        "kind": "truth",
        "truth_declared": about.get("kind") == "truth" if isinstance(about, Mapping) and about else None,
        "figures": comparison.to_dict(),
        "object_pixel_size_m": pixel,
        "frc": comparison.frc.to_dict(pixel_size_m=pixel),
    }
    curves = {"image beside truth": comparison.frc}
    return Evaluation(comparison, ("truth", "image"), report, curves, image=replace(estimate, pixel_size_m=pixel))


def _true_object(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    if scan.object_truth is None or scan.object_origin_yx_px is None:
        about = scan.metadata.get("object")
        reason = about.get("reason") if isinstance(about, Mapping) else None
        raise ContractError(
            Problem(
                str(scan.metadata.get("source", "Scan")),
                "scan.no_truth",
                "a scan with its true object, or an object.npz",
                "a scan without truth" + (f" ({reason})" if reason else ""),
                "evaluate the scan without truth: `scan=FILE`",
            )
        )
    return scan.object_truth, scan.object_origin_yx_px


def split_in_halves(used: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint halves of some pattern indices, each ascending: ``default_rng(seed).permutation(used)``, cut.

    >>> first, second = split_in_halves(np.arange(7), 0)
    >>> len(first), len(second), sorted([*first.tolist(), *second.tolist()])
    (4, 3, [0, 1, 2, 3, 4, 5, 6])
    """
    order = np.random.default_rng(seed).permutation(used)
    middle = (len(order) + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def evaluate_scan(
    backend: Backend,
    scan: Scan | Path | str,
    *,
    config: ReconstructionConfig,
    execution_config: ExecutionConfig,
    hold_out: HoldOut = None,
    measurement: str = "auto",
    nphotons: float | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Reconstruct a scan with and without a prior, two disjoint halves of it, and these with half the epochs (CLI-17).

    Args:
        backend: What computes.
        scan: One scan, or the path of its file, which is read once.
        config, execution_config: Options of every reconstruction, and of the device.
        hold_out: Patterns in no half; default: as the options say.
        measurement, nphotons: How a file is read.
        deadline: When it must have ended; default: after the seconds of the options, from now. The reconstructions
            share that time by the patterns and epochs that they have.
        progress: Called as ``progress(stage, done, total)``, each stage named after its part.

    Raises:
        ContractError: bad data, or too few patterns to halve.
        WorkFailedError: a reconstruction diverged.
    """
    until = Deadline(config.max_seconds) if deadline is None else deadline
    scan = opened_scan(scan, measurement=measurement, nphotons=nphotons)
    other = None if config.prior == "none" else replace(config, prior="none", prior_weight="auto")
    if config.prior is None and config.prior_weight == "auto":
        # Halves that share a prior agree on what it adds.
        config, other = replace(config, prior="none"), config
    held = held_out_indices(config.hold_out if hold_out is None else hold_out, len(scan), config.seed)
    used = used_indices(held, len(scan))
    _require_enough(scan, used)
    halves = split_in_halves(used, config.seed)

    shares = [1.0, 0.5, 0.5, *([0.25, 0.25] if config.epochs > 1 else []), *([] if other is None else [1.0])]

    def run(part: str, scan: Scan, config: ReconstructionConfig, members: NDArray[np.int64]) -> Run:
        others, share = np.setdiff1d(np.arange(len(scan)), members), shares.pop(0)
        return reconstruct(
            backend,
            scan,
            config=config,
            execution_config=execution_config,
            hold_out=others,
            deadline=until.part(share / (share + sum(shares))),
            progress=named(part, progress),
        )

    image, full = run("all patterns", scan, config, used)
    if scan.probe is None:
        # Two searches could end in different probes, and the halves would differ for that reason alone.
        scan = replace(scan, probe=image.probe, probe_kind="guess")
    late = [run(f"half {name}", scan, config, half) for name, half in zip("ab", halves, strict=True)]
    early = None
    if config.epochs > 1:
        fewer = replace(config, epochs=config.epochs // 2)
        early = [run(f"half {name}, early", scan, fewer, half) for name, half in zip("ab", halves, strict=True)]
    evaluation = _evaluated(config, full, late, early, [len(half) for half in halves])
    if other is None:
        return evaluation
    alone = config.prior == "none"
    first, second = (image, full), run("with the prior" if alone else "without the prior", scan, other, used)
    with_prior, without = (second, first) if alone else (first, second)
    return _with_prior(evaluation, with_prior, without, halves_alone=alone)


def named(part: str, progress: Progress | None) -> Progress | None:
    """A callback whose stage names start with a part's name."""
    return changed(progress, lambda stage, done, total: (f"{part}: {stage}", done, total))


def _require_enough(scan: Scan, used: NDArray[np.int64]) -> None:
    if len(used) < LEAST_PATTERNS:
        raise ContractError(
            Problem(
                str(scan.metadata.get("source", "Scan")),
                "evaluate.patterns",
                f"at least {LEAST_PATTERNS} patterns to halve",
                f"{len(used)} used",
                "evaluate a larger scan, or hold out fewer patterns",
            )
        )


def _with_prior(evaluation: Evaluation, with_prior: Run, without: Run, *, halves_alone: bool) -> Evaluation:
    """With what of the image is the prior's: it beside the image of the data alone.

    Args:
        halves_alone: Whether the halves had no prior, so that their agreement is that of the data.
    """
    beside, summaries = _agreement([without, with_prior]), {"with": with_prior[1], "without": without[1]}
    report: dict[str, Any] = {
        "kind": with_prior[1]["prior"]["kind"],
        "acted": with_prior[1]["prior"]["acted"],
        "difference": _difference(beside, with_prior[0].weight),
        "data_alone_half_bit": evaluation.report["frc"]["half_bit"] if halves_alone else None,
    }
    for name in ("residual", "residual_map"):
        report[name] = {key: summary.get(name) for key, summary in summaries.items()}
    said = [evaluation.report, *summaries.values()]
    shortened = list(dict.fromkeys(words for each in said for words in each.get("shortened", ())))
    whole = {**evaluation.report, "what_the_prior_adds": report, "shortened": shortened}
    return replace(evaluation, report=whole, prior=beside)


def _difference(beside: Comparison, light: NDArray[np.float32]) -> float | None:
    """``sum w |with - without|^2 / sum w |without - mean|^2`` under the root: 1 if the prior adds as much as is there.

    Args:
        light: (H, W) illumination; w is at most its median, so that dim edges count little.
    """
    mask = beside.alignment.mask
    image, alone = beside.alignment.estimate[mask], beside.alignment.truth[mask]
    weight = np.minimum(light[mask], np.median(light[mask])).astype(np.float64)
    contrast = float((weight * np.abs(alone - np.average(alone, weights=weight)) ** 2).sum())
    return float(np.sqrt((weight * np.abs(image - alone) ** 2).sum() / contrast)) if contrast > 0 else None


def _agreement(halves: Sequence[Run]) -> Comparison:
    (a, _), (b, _) = halves
    return compare(
        b.object,
        a.object,
        weight=b.weight,
        truth_weight=a.weight,
        estimate_origin_yx_px=b.origin_yx_px,
        truth_origin_yx_px=a.origin_yx_px,
    )


def _evaluated(
    config: ReconstructionConfig, full: Summary, late: list[Run], early: list[Run] | None, sizes: list[int]
) -> Evaluation:
    """Figures, advice and curves of the five runs."""
    residual, floor = full["residual"], full["poisson_floor"]
    epochs, half_epochs = full.get("epochs", config.epochs), late[0][1].get("epochs", config.epochs)
    comparison, before, epochs_before = _agreement(late), None, None
    half_b = late[1][0]
    pixel = half_b.pixel_size_m
    # Stopped by the clock, both runs had the same epochs: they say nothing of a trend.
    if early is not None and early[0][1].get("epochs", config.epochs // 2) < half_epochs:
        before, epochs_before = _agreement(early), early[0][1].get("epochs", config.epochs // 2)
    advice = advise(
        residual=residual["used"],
        floor=floor["used"],
        held_out=residual.get("held_out"),
        modes=config.modes,
        epochs=epochs,
        half_bit=comparison.frc_half_bit,
        half_bit_before=None if before is None else before.frc_half_bit,
        corrects_positions=config.correct_positions,
        fits_background=config.fit_background,
    )
    own = ("residual", "poisson_floor", "epochs", "seconds", "cpu_seconds")
    report = {
        "kind": "half scans",
        **full,
        "shortened": list(dict.fromkeys(full.get("shortened", ()))),
        "residual_over_floor": {part: over_floor(residual.get(part), floor.get(part)) for part in ("used", "held_out")},
        "frc": comparison.frc.to_dict(pixel_size_m=pixel),
        "agreement": comparison.to_dict(),
        "halves": [
            {"patterns": size, **{key: half.get(key) for key in own}}
            for size, (_, half) in zip(sizes, late, strict=True)
        ],
        "advice": [{"code": entry.code, "text": entry.text} for entry in advice],
    }
    curves = {}
    if before is not None:
        report["frc_before"] = {"epochs": epochs_before, **before.frc.to_dict(pixel_size_m=pixel)}
        curves[f"{epochs_before} epochs"] = before.frc
    curves[f"{half_epochs} epochs"] = comparison.frc
    named_losses = zip(("all patterns", "half a", "half b"), (full, late[0][1], late[1][1]), strict=True)
    return Evaluation(
        comparison,
        ("half a", "half b"),
        report,
        curves,
        tuple(advice),
        {name: list(summary["losses"]) for name, summary in named_losses if summary.get("losses")},
        floor["used"] if full.get("loss", config.loss) == "amplitude" else None,
        image=half_b,
    )
