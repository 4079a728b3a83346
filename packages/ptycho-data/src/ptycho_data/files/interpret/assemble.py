"""From what a file holds to a checked Scan: shapes, unit, truth, provenance (specs/files.md, SCAN)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.arrays import ArraySpec, problems_of
from ptycho_contracts.effects import CODE
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.interpret.agreement import agreement
from ptycho_data.files.interpret.optics import GEOMETRY_KEYS, complete_geometry
from ptycho_data.files.interpret.units import UnitDecision, decide_unit
from ptycho_data.files.interpret.zero_frequency import centred
from ptycho_data.files.sources import file_sha256
from ptycho_data.foreign_content import from_json


@dataclass(frozen=True, eq=False, kw_only=True)
class Raw:
    """What a format module read from a file, under common names, unchecked.

    Attributes:
        path, format: Source and name of the format.
        patterns: As stored.
        positions: (M, 2) ``[x, y]`` in object pixels.
        probe: (N, N) or (modes, N, N) complex, or None.
        bad_pixels, scan_index: Arrays or None.
        object: Object of the file, truth or guess, or None.
        object_origin_yx_px: Object coordinate of its pixel ``[0, 0]``; 0, 0 if None.
        scalars: ``nphotons`` and physical geometry.
        texts: ``measurement``, ``probe_kind``, ``object_kind``, ``convention``, ``metadata``.
        zero_frequency: ``"centre"``, ``"corner"``, its pixel (y, x), or None if the source does not say.
        decisions: What the format module decided (axis order, units, pairing); goes to ``Scan.metadata``.
        compare_object: Whether object, probe and positions should explain the patterns: then this is tested.
        reconstructed: Whether the source says that the object was fitted to these patterns.
        sha256: Of the source; of the file at ``path`` if None.
    """

    path: Path
    format: str
    patterns: NDArray[Any] | None
    positions: NDArray[Any]
    probe: NDArray[Any] | None = None
    bad_pixels: NDArray[Any] | None = None
    scan_index: NDArray[Any] | None = None
    object: NDArray[Any] | None = None
    object_origin_yx_px: NDArray[Any] | None = None
    scalars: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    zero_frequency: str | tuple[float, float] | None = None
    decisions: Mapping[str, Any] = field(default_factory=dict)
    compare_object: bool = False
    reconstructed: bool = False
    sha256: str | None = None


UNSTATED = "the file does not say that its object is the true one (object_kind 'truth'): it may be a reconstruction"
LARGEST_VALUE = 1e16
"""Largest magnitude of a count, amplitude, position or probe pixel."""
_SPECS = (
    ArraySpec("patterns", ("pattern", "y", "x"), kinds="uif", unit="counts or amplitude", minimum=0.0),
    ArraySpec("positions", ("pattern", 2), kinds="fiu", unit="px"),
    ArraySpec("scan_index", ("pattern",), kinds="iu", minimum=0, optional=True),
    ArraySpec("probe", ("mode", "y", "x"), kinds="c", optional=True),
    ArraySpec("bad_pixels", ("y", "x"), kinds="biu", optional=True),
    ArraySpec("object_origin_yx_px", (2,), kinds="fiu", optional=True),
)


def scan_of(
    raw: Raw, *, measurement: str = "auto", nphotons: float | None = None, object_is_truth: bool = False
) -> Scan:
    """Check what a file holds and make a Scan of it.

    Args:
        raw: Of the file.
        measurement, nphotons: As asked.
        object_is_truth: Whether its object is the true one whatever the file says.

    Raises:
        ContractError: with all problems of the arrays; or of the unit, when the arrays are good.
    """
    probe = raw.probe[None] if raw.probe is not None and raw.probe.ndim == 2 else raw.probe
    raw, cleared = _without_bad_values(raw)
    _check(raw, probe)
    assert raw.patterns is not None
    bad = None if raw.bad_pixels is None else raw.bad_pixels.astype(bool)
    moved, bad, zero = centred(raw.patterns, bad, declared=raw.zero_frequency, where=str(raw.path))
    raw = replace(raw, patterns=moved)
    decision = decide_unit(
        moved,
        probe=probe,
        bad_pixels=bad,
        explicit=measurement,
        declared=raw.texts.get("measurement"),
        convention=raw.texts.get("convention", ""),
        where=str(raw.path),
    )
    patterns, unit, conversion = _in_unit(raw, decision, nphotons, bad)
    positions = raw.positions.astype(np.float64)
    truth, origin, verdict = _truth(raw, positions, patterns.shape[-1], believed=object_is_truth)
    if truth is not None and origin is not None and probe is not None and raw.compare_object:
        truth, origin, verdict = _compared(raw, patterns, unit, positions, probe, truth, origin, bad, verdict)
    if truth is not None and not (object_is_truth or verdict["kind"] == "truth"):
        truth, origin, verdict = None, None, {**verdict, "used_as_truth": False, "reason": UNSTATED}
    scalars = {key: float(np.asarray(value).item()) for key, value in raw.scalars.items()}
    metadata = {
        "source": str(raw.path),
        "sha256": raw.sha256 or file_sha256(raw.path),
        "format": raw.format,
        "measurement": {
            "unit": decision.unit,
            "decided_by": decision.decided_by,
            "evidence": decision.evidence,
            **conversion,
        },
        "nphotons": mean_photons(patterns, unit, bad),
        "zero_frequency": zero,
        "object": verdict,
        "geometry": _geometry(scalars, patterns.shape[-1], str(raw.path)),
        **({"nphotons_declared": scalars["nphotons"]} if "nphotons" in scalars else {}),
        **({"file_metadata": _json(raw.texts["metadata"])} if "metadata" in raw.texts else {}),
        **({"bad_pixel_values_cleared": cleared} if cleared else {}),
        **raw.decisions,
    }
    return Scan(
        measurements=patterns,
        unit=unit,
        positions_px=positions,
        probe=None if probe is None else probe.astype(np.complex64),
        probe_kind="exact" if raw.texts.get("probe_kind") == "exact" else "guess",
        bad_pixels=bad,
        scan_index=np.zeros(len(patterns), np.int64) if raw.scan_index is None else raw.scan_index.astype(np.int64),
        object_truth=truth,
        object_origin_yx_px=origin,
        metadata=metadata,
    )


def _geometry(scalars: dict[str, float], N: int, where: str) -> dict[str, float]:
    """The set-up as stored; of its four scalars three determine the fourth (FAR-4)."""
    stored = {key: value for key, value in scalars.items() if key != "nphotons"}
    if sum(key in stored for key in GEOMETRY_KEYS) == len(GEOMETRY_KEYS) - 1:
        return {**stored, **complete_geometry(stored, N, where=where)}
    return stored


def mean_photons(measurements: NDArray[Any], unit: str, bad_pixels: NDArray[np.bool_] | None) -> float:
    """Mean photons per pattern over good pixels, summed in float64 block by block."""
    good = np.ones(measurements.shape[1:], bool) if bad_pixels is None else ~bad_pixels
    step = max(1, (1 << 22) // good.size)
    total = 0.0
    for start in range(0, len(measurements), step):
        block = measurements[start : start + step][:, good].astype(np.float64)
        total += float(np.square(block).sum() if unit == "amplitude" else block.sum())
    return total / len(measurements)


def _without_bad_values(raw: Raw) -> tuple[Raw, int]:
    """Set bad pixels, which detectors mark by -1 or NaN, to 0 where the mask marks them; nothing else changes."""
    patterns, bad = raw.patterns, raw.bad_pixels
    if patterns is None or bad is None or patterns.ndim != 3 or bad.shape != patterns.shape[1:]:
        return raw, 0
    if patterns.dtype.kind not in "if" or bad.dtype.kind not in "biu":
        return raw, 0
    values = patterns[:, bad.astype(bool)]
    wrong = ~np.isfinite(values) | (values < 0)
    if not wrong.any():
        return raw, 0
    cleaned = patterns.copy()
    cleaned[:, bad.astype(bool)] = np.where(wrong, 0, values)
    return replace(raw, patterns=cleaned), int(wrong.sum())


def _compared(
    raw: Raw,
    patterns: NDArray[Any],
    unit: str,
    positions: NDArray[np.float64],
    probe: NDArray[Any],
    truth: NDArray[np.complex64],
    origin: NDArray[np.float64],
    bad: NDArray[np.bool_] | None,
    verdict: dict[str, Any],
) -> tuple[NDArray[np.complex64] | None, NDArray[np.float64] | None, dict[str, Any]]:
    """The object with the result of a test on its own patterns; left out if it explains them no better than none."""
    counts = np.square(patterns.astype(np.float64)) if unit == "amplitude" else patterns
    record = agreement(
        counts,
        positions - origin[::-1],
        probe,
        truth,
        bad_pixels=bad,
        where=str(raw.path),
        reconstructed=raw.reconstructed,
    )
    verdict = {**verdict, "agreement": record}
    if record["explains"]:
        return truth, origin, verdict
    reason = "explains the patterns no better than a uniform object"
    return None, None, {**verdict, "used_as_truth": False, "reason": reason}


def _check(raw: Raw, probe: NDArray[Any] | None) -> None:
    arrays = {spec.name: getattr(raw, spec.name) for spec in _SPECS} | {"probe": probe}
    layout = [*_pattern_layout(raw), *_position_layout(raw)]
    named = {problem.where.rsplit(": ", 1)[-1] for problem in layout}
    # A wrong order of axes explains every other problem of the sizes.
    specs = [spec for spec in _SPECS if spec.name not in named] if not layout else []
    problems = layout + problems_of(arrays, specs, where=str(raw.path)) + list(_scalar_problems(raw))
    if not problems:
        problems = _range_problems(raw, probe)
    if problems:
        raise ContractError(problems)


def _range_problems(raw: Raw, probe: NDArray[Any] | None) -> list[Problem]:
    """Values that no detector counts and single precision cannot square."""
    largest = {"patterns": raw.patterns, "positions": raw.positions, "probe": probe}
    candidate = raw.object
    if candidate is not None and candidate.ndim == 2 and candidate.dtype.kind == "c" and np.isfinite(candidate).all():
        largest["object"] = candidate
    problems = []
    for name, array in largest.items():
        if array is None or not array.size:
            continue
        value = max(float(np.abs(block).max()) for block in np.array_split(array, max(1, array.nbytes >> 24)))
        if value > LARGEST_VALUE:
            problems.append(
                Problem(
                    f"{raw.path}: {name}",
                    "scan.range",
                    f"values of at most {LARGEST_VALUE:g}",
                    f"{value:.4g}",
                    "correct the unit or mask the bad pixels",
                )
            )
    return problems


def _pattern_layout(raw: Raw) -> list[Problem]:
    patterns = raw.patterns
    if patterns is not None and patterns.dtype.kind == "c":
        return [
            Problem(
                f"{raw.path}: patterns",
                "scan.complex_patterns",
                "photons or their square roots, which are real",
                f"{patterns.dtype}",
                "store numpy.abs(patterns) ** 2; phases are not measured",
            )
        ]
    if patterns is not None and patterns.ndim == 2:
        return [
            Problem(
                f"{raw.path}: patterns",
                "array.shape",
                "(pattern, y, x)",
                f"one image, shape {patterns.shape}",
                "store all patterns in one array; ptycho-cli import FRAMES... OUT joins images",
            )
        ]
    if patterns is None or patterns.ndim != 3:
        return []
    M, height, width = patterns.shape
    if height == width:
        return []
    where = f"{raw.path}: patterns"
    if height == M and len(raw.positions) != M:
        return [
            Problem(
                where,
                "scan.pattern_axis",
                "(pattern, y, x) with the pattern axis first",
                f"shape {patterns.shape}, which has it last",
                "store numpy.moveaxis(patterns, -1, 0)",
            )
        ]
    return [
        Problem(
            where,
            "scan.not_square",
            "square patterns",
            f"shape {patterns.shape}",
            "ptycho-cli import FILE OUT crops them; or store squares, the zero frequency at [N // 2, N // 2]",
        )
    ]


def _position_layout(raw: Raw) -> list[Problem]:
    where = f"{raw.path}: positions"
    shape = raw.positions.shape
    layout = () if raw.patterns is None else raw.patterns.shape
    count = layout[0] if len(layout) == 3 and layout[1] == layout[2] else None
    if len(shape) == 2 and shape[0] == 2 and shape[1] != 2:
        return [
            Problem(
                where,
                "scan.positions_axis",
                "(M, 2), one row [x, y] per pattern",
                f"shape {shape}",
                "store the transposed array",
            )
        ]
    if count is not None and len(shape) == 2 and shape[1] == 2 and shape[0] != count:
        return [
            Problem(
                where,
                "scan.counts_differ",
                f"as many positions as patterns: {count}",
                f"{shape[0]} positions for {count} patterns",
                "pair each pattern with its position",
            )
        ]
    return []


def _scalar_problems(raw: Raw) -> list[Problem]:
    problems = []
    for key, value in raw.scalars.items():
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "fiu" or not math.isfinite(array.item()) or array.item() <= 0:
            problems.append(
                Problem(
                    f"{raw.path}: {key}",
                    "scan.scalar",
                    "one positive number",
                    f"{array.dtype} of shape {array.shape}" if array.size != 1 else repr(array.item()),
                    "correct or remove the key",
                )
            )
    kinds = {"probe_kind": ("exact", "guess")}
    for key, legal in kinds.items():
        if raw.texts.get(key, legal[0]) not in legal:
            problems.append(
                Problem(f"{raw.path}: {key}", "scan.kind", " or ".join(legal), repr(raw.texts[key]), "correct the key")
            )
    return problems


def _in_unit(
    raw: Raw, decision: UnitDecision, nphotons: float | None, bad: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], Any, dict[str, float]]:
    """Patterns in counts or amplitude; normalised amplitude becomes amplitude of the requested dose."""
    assert raw.patterns is not None
    if decision.unit != "normalised-amplitude":
        if nphotons is not None:
            raise ContractError(
                Problem(
                    f"{raw.path}: nphotons",
                    CODE,
                    "an option that has an effect",
                    f"{nphotons:g}, which has none: the patterns are {decision.unit}, with a dose of their own",
                    "leave `nphotons` out, or give `measurement=normalised-amplitude`",
                )
            )
        return raw.patterns, decision.unit, {}
    requested = raw.scalars.get("nphotons") if nphotons is None else nphotons
    requested = None if requested is None else float(np.asarray(requested).item())
    measured = mean_photons(raw.patterns, "amplitude", bad)
    if requested is None or not measured > 0:
        found = "nothing" if requested is None else "patterns without any signal"
        raise ContractError(
            Problem(
                f"{raw.path}: nphotons",
                "scan.nphotons",
                "the mean photons per pattern, for normalised patterns",
                found,
                "give `nphotons`, or store the key 'nphotons'",
            )
        )
    factor = requested / measured
    return (raw.patterns.astype(np.float64) * math.sqrt(factor)).astype(np.float32), "amplitude", {"factor": factor}


def _truth(
    raw: Raw, positions: NDArray[np.float64], N: int, *, believed: bool
) -> tuple[NDArray[np.complex64] | None, NDArray[np.float64] | None, dict[str, Any]]:
    """The file's object, if it can be a true one; else why not."""
    candidate = raw.object
    origin = np.zeros(2) if raw.object_origin_yx_px is None else raw.object_origin_yx_px.astype(np.float64)
    kind = raw.texts.get("object_kind", "unstated")
    if candidate is None:
        return None, None, {"kind": kind, "used_as_truth": False, "reason": "the file holds no object"}
    start = positions[:, ::-1] - N // 2 - origin
    reason = None
    if candidate.ndim != 2 or candidate.dtype.kind != "c":
        reason = f"not a complex image: {candidate.dtype} of shape {candidate.shape}"
    elif candidate.size == 0 or not np.isfinite(candidate).all():
        reason = "not finite"
    elif np.all(candidate == candidate.flat[0]):
        reason = "constant"
    elif (start < 0).any() or (np.ceil(start) + N > np.asarray(candidate.shape)).any():
        reason = f"no room for all patches in {candidate.shape} at origin {origin.tolist()}"
    elif kind not in ("truth", "unstated") and not believed:
        reason = f"object_kind {kind!r}"
    if reason is not None:
        return None, None, {"kind": kind, "used_as_truth": False, "reason": reason}
    return candidate.astype(np.complex64), origin, {"kind": kind, "used_as_truth": True, "reason": "sensible"}


def _json(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return text
