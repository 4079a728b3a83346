"""Named, immutable records of arrays: what flows between the packages (specs/arrays.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.arrays import ArraySpec, problems_of, validate
from ptycho_contracts.problems import ContractError, Problem

MeasurementUnit = Literal["counts", "amplitude"]
ProbeKind = Literal["exact", "guess"]

SCAN_ARRAYS = (
    ArraySpec("measurements", ("pattern", "N", "N"), kinds="uif", unit="counts or amplitude", minimum=0.0),
    ArraySpec("positions_px", ("pattern", 2), kinds="f", dtype="float64", unit="px"),
    ArraySpec("scan_index", ("pattern",), kinds="i", dtype="int64", minimum=0),
    ArraySpec("probe", ("mode", "N", "N"), kinds="c", dtype="complex64", optional=True, unit="sqrt(counts)"),
    ArraySpec("bad_pixels", ("N", "N"), kinds="b", dtype="bool", optional=True),
    ArraySpec("object_truth", ("object_y", "object_x"), kinds="c", dtype="complex64", optional=True),
    ArraySpec("object_origin_yx_px", (2,), kinds="f", dtype="float64", optional=True, unit="px"),
)

TRUTH_ARRAYS = (
    ArraySpec("object", ("object_y", "object_x"), kinds="c", dtype="complex64"),
    ArraySpec("origin_yx_px", (2,), kinds="f", dtype="float64", unit="px"),
)

GROUP_ARRAYS = (
    ArraySpec("nn_indices", ("group", "channel"), kinds="i", dtype="int64", minimum=0),
    ArraySpec("coords_offsets", ("group", 1, 2, 1), kinds="f", dtype="float32", unit="px"),
    ArraySpec("coords_relative", ("group", 1, 2, "channel"), kinds="f", dtype="float32", unit="px"),
)

BATCH_ARRAYS = (
    ArraySpec("counts", ("group", "channel", "N", "N"), kinds="f", dtype="float32", unit="counts", minimum=0.0),
    *GROUP_ARRAYS,
    ArraySpec("mean_counts", ("group",), kinds="f", dtype="float32", unit="counts", minimum=0.0),
    ArraySpec("truth", ("group", "channel", "N", "N"), kinds="c", dtype="complex64", optional=True),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """The true object of one scan.

    Attributes:
        object: (H, W) complex64.
        origin_yx_px: (2,) float64, object coordinate of ``object[0, 0]``.

    Raises:
        ContractError: with all problems at once, when the arrays break specs/arrays.md.
    """

    object: NDArray[np.complex64]
    origin_yx_px: NDArray[np.float64]

    def __post_init__(self) -> None:
        validate(self, TRUTH_ARRAYS, where="Truth")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Scan:
    """Measured patterns with their positions, as one or several scans.

    Attributes:
        measurements: (pattern, N, N), any integer or float dtype, zero frequency at
            ``[N // 2, N // 2]``; ``unit`` says what a pixel holds.
        unit: ``"counts"`` (photons) or ``"amplitude"`` (square root of counts).
        positions_px: (pattern, 2) float64, ``[x, y]``: object coordinate of pixel
            ``[N // 2, N // 2]`` of each pattern's patch.
        probe: (mode, N, N) complex64 or None.
        probe_kind: ``"exact"`` only if the source declares that the probe is the true one.
        bad_pixels: (N, N) bool or None; True marks a detector pixel to ignore.
        scan_index: (pattern,) int64; groups never mix different values.
        object_truth: (H, W) complex64 or None, the true object of all patterns, of a simulation.
        object_origin_yx_px: (2,) float64, object coordinate of ``object_truth[0, 0]``.
        object_truths: If the scans have different objects: the true object of each, by ``scan_index``.
        metadata: JSON values: source, decisions taken on reading, physical geometry.

    Raises:
        ContractError: with all problems at once, when the arrays break specs/arrays.md.
    """

    measurements: NDArray[Any]
    unit: MeasurementUnit
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64] | None = None
    probe_kind: ProbeKind = "guess"
    bad_pixels: NDArray[np.bool_] | None = None
    scan_index: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type]
    object_truth: NDArray[np.complex64] | None = None
    object_origin_yx_px: NDArray[np.float64] | None = None
    object_truths: Mapping[int, Truth] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scan_index is None and hasattr(self.measurements, "shape"):
            object.__setattr__(self, "scan_index", np.zeros(self.measurements.shape[:1], np.int64))
        problems = problems_of(self, SCAN_ARRAYS, where="Scan")
        problems += _choice_problems("Scan: unit", self.unit, get_args(MeasurementUnit))
        problems += _choice_problems("Scan: probe_kind", self.probe_kind, get_args(ProbeKind))
        problems += _pair_problems("Scan", self, ("object_truth", "object_origin_yx_px"))
        if problems:
            raise ContractError(problems)
        if self.object_truths:
            _require_truths(self)

    @cached_property
    def truths(self) -> Mapping[int, Truth]:
        """True object of each scan by its ``scan_index``, as far as they are known (ARR-17)."""
        if self.object_truth is None or self.object_origin_yx_px is None:
            return self.object_truths
        shared = Truth(object=self.object_truth, origin_yx_px=self.object_origin_yx_px)
        return {int(number): shared for number in np.unique(self.scan_index)}

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return int(self.measurements.shape[-1])

    @property
    def pixel_size_m(self) -> float | None:
        """Side of an object pixel, or None where the geometry is unknown (ARR-18).

        Raises:
            ContractError: ``record.pixel_size``.
        """
        geometry = self.metadata.get("geometry")
        value = geometry.get("object_pixel_size_m") if isinstance(geometry, Mapping) else None
        problems = pixel_size_problems(value, where="Scan")
        if problems:
            raise ContractError(problems)
        return None if value is None else float(value)

    def __len__(self) -> int:
        return len(self.measurements)

    def __repr__(self) -> str:
        scans = len(np.unique(self.scan_index))
        parts = [f"{_counted(len(self), 'pattern')} of {self.N} x {self.N} px in {self.unit}"]
        parts += [
            "no probe" if self.probe is None else f"{_counted(len(self.probe), 'probe mode')} ({self.probe_kind})"
        ]
        parts += [f"{scans} scans"] if scans > 1 else []
        parts += ["true object known"] if self.truths else []
        return f"Scan({', '.join(parts)})"

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Photon counts of the chosen patterns, float32, whatever the storage dtype and unit."""
        chosen = np.asarray(self.measurements[index], dtype=np.float32)
        return np.square(chosen) if self.unit == "amplitude" else chosen


@dataclass(frozen=True, eq=False, kw_only=True)
class Groups:
    """Groups of C = gridsize**2 neighbouring patterns (specs/grouping.md).

    Attributes:
        nn_indices: (group, C) int64, members; column 0 is the seed.
        coords_offsets: (group, 1, 2, 1) float32, ``[x, y]`` of the group's centre.
        coords_relative: (group, 1, 2, C) float32, ``[x, y]`` of centre minus position; its mean
            over the channels is 0.

    Raises:
        ContractError: with all problems at once, when the arrays break specs/arrays.md.
    """

    nn_indices: NDArray[np.int64]
    coords_offsets: NDArray[np.float32]
    coords_relative: NDArray[np.float32]

    def __post_init__(self) -> None:
        _validate_grouped(self, GROUP_ARRAYS, "Groups")

    def __len__(self) -> int:
        return len(self.nn_indices)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """What a training step receives: groups with their photon counts.

    Attributes:
        counts: (group, C, N, N) float32 photon counts.
        nn_indices, coords_offsets, coords_relative: as in :class:`Groups`.
        mean_counts: (group,) float32, mean counts per pattern of the scan that the group
            belongs to; it fixes the probe normalisation (specs/physics.md).
        truth: (group, C, N, N) complex64 or None, the true object under each pattern (PHY-4).

    Raises:
        ContractError: with all problems at once, when the arrays break specs/arrays.md.
    """

    counts: NDArray[np.float32]
    nn_indices: NDArray[np.int64]
    coords_offsets: NDArray[np.float32]
    coords_relative: NDArray[np.float32]
    mean_counts: NDArray[np.float32]
    truth: NDArray[np.complex64] | None = None

    def __post_init__(self) -> None:
        _validate_grouped(self, BATCH_ARRAYS, "Batch")

    def __len__(self) -> int:
        return len(self.counts)


RECONSTRUCTION_ARRAYS = (
    ArraySpec("object", ("object_y", "object_x"), kinds="c", dtype="complex64"),
    ArraySpec("origin_yx_px", (2,), kinds="f", dtype="float64", unit="px"),
    ArraySpec("weight", ("object_y", "object_x"), kinds="f", dtype="float32", minimum=0.0, unit="counts"),
    ArraySpec("probe", ("mode", "N", "N"), kinds="c", dtype="complex64", unit="sqrt(counts)"),
    ArraySpec("positions_px", ("pattern", 2), kinds="f", dtype="float64", unit="px"),
)
PIXEL_SIZE = ArraySpec("pixel_size_m", (), kinds="f", dtype="float64", optional=True, unit="m", finite=False)
"""As it is stored; :func:`pixel_size_problems` says what it may be."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Reconstruction:
    """A reconstructed object with what is needed to simulate its patterns again.

    Attributes:
        object: (H, W) complex64.
        origin_yx_px: (2,) float64, object-pixel coordinate of ``object[0, 0]``.
        weight: (H, W) float32, summed illumination; 0 at pixels that no pattern covers.
        probe: (mode, N, N) complex64, normalised as in specs/physics.md (PHY-10).
        positions_px: (pattern, 2) float64, ``[x, y]``, as used.
        pixel_size_m: Side of an object pixel, or None: unknown.

    Raises:
        ContractError: with all problems at once, when the arrays break specs/arrays.md.
    """

    object: NDArray[np.complex64]
    origin_yx_px: NDArray[np.float64]
    weight: NDArray[np.float32]
    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]
    pixel_size_m: float | None = None

    def __post_init__(self) -> None:
        problems = problems_of(self, RECONSTRUCTION_ARRAYS, where="Reconstruction")
        problems += pixel_size_problems(self.pixel_size_m, where="Reconstruction")
        if problems:
            raise ContractError(problems)

    def __repr__(self) -> str:
        height, width = self.object.shape
        parts = [f"object of {height} x {width} px", _counted(len(self.probe), "probe mode")]
        parts += [_counted(len(self.positions_px), "position")]
        parts += [_pixel(self.pixel_size_m)] if self.pixel_size_m is not None else []
        return f"Reconstruction({', '.join(parts)})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _pixel(size_m: float) -> str:
    return f"object pixel {size_m * 1e9:.4g} nm"


def pixel_size_problems(value: Any, *, where: str) -> list[Problem]:
    """ARR-18: a positive number of metres, or None."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is None or (is_number and math.isfinite(value) and value > 0):
        return []
    return [
        Problem(
            f"{where}: pixel_size_m",
            "record.pixel_size",
            "a positive number of metres, or None",
            repr(value),
            "give the side of an object pixel, or leave it out",
        )
    ]


def _choice_problems(where: str, value: Any, choices: tuple[str, ...]) -> list[Problem]:
    if value in choices:
        return []
    expected = "one of " + ", ".join(map(repr, choices))
    return [Problem(where, "record.choice", expected, repr(value), "say what the source declares")]


def _pair_problems(where: str, record: Any, names: tuple[str, str]) -> list[Problem]:
    missing = [name for name in names if getattr(record, name) is None]
    if len(missing) != 1:
        return []
    present = next(name for name in names if name != missing[0])
    return [
        Problem(
            f"{where}: {missing[0]}",
            "record.pair",
            f"'{missing[0]}' beside '{present}'",
            "nothing",
            f"provide '{missing[0]}' or leave '{present}' out",
        )
    ]


def _require_truths(scan: Scan) -> None:
    """ARR-17: one way to give the truth, and only for scans that exist."""
    problems = []
    if scan.object_truth is not None:
        problems.append(
            Problem(
                "Scan: object_truths",
                "record.truths",
                "either 'object_truth' or 'object_truths'",
                "both",
                "give one object for all patterns, or one for each scan",
            )
        )
    strangers = sorted(set(scan.object_truths) - set(np.unique(scan.scan_index).tolist()))
    if strangers:
        known = np.unique(scan.scan_index).tolist()
        problems.append(
            Problem(
                "Scan: object_truths",
                "record.truths",
                f"keys among the scans {known[:8]}",
                f"{strangers}",
                "key each object by the 'scan_index' of its patterns",
            )
        )
    if problems:
        raise ContractError(problems)


def _validate_grouped(record: Any, specs: Sequence[ArraySpec], where: str) -> None:
    problems = problems_of(record, specs, where=where)
    if not any("coords_relative" in problem.where for problem in problems):
        problems += _centre_problems(record.coords_relative, where)
    if problems:
        raise ContractError(problems)


def _centre_problems(coords_relative: NDArray[np.float32], where: str) -> list[Problem]:
    """ARR-15: the group's centre is the mean of its members."""
    largest = np.abs(coords_relative).max(axis=(1, 2, 3))
    mean = np.abs(coords_relative.mean(axis=3, dtype=np.float64)).max(axis=(1, 2))
    off = np.flatnonzero(mean > 1e-4 * (1.0 + largest))
    if not off.size:
        return []
    return [
        Problem(
            f"{where}: coords_relative",
            "groups.centre",
            "a mean of 0 over the channels of each group",
            f"{off.size} groups off, the first is group {off[0]} by {mean[off[0]]:.3g} px",
            "subtract each position from the mean of its group's positions",
        )
    ]
