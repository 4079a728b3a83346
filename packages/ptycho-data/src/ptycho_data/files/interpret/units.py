"""The unit of a file's patterns: one explicit, recorded decision (specs/files.md, UNIT)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

Unit = Literal["counts", "amplitude", "normalised-amplitude"]
UNITS: tuple[Unit, ...] = ("counts", "amplitude", "normalised-amplitude")
SAMPLE = 128
"""Patterns whose values are measured, at most (UNIT-2)."""
_REMEDY = "say what the patterns hold: `measurement=counts|amplitude|normalised-amplitude`"
_QUESTION = (
    "photons, their roots, or scaled roots (with `nphotons`)? `measurement=counts|amplitude|normalised-amplitude`; "
    "scaled photons: import with `measurement=normalised-intensity`"
)
_INTEGER_TOLERANCE = 1e-3
"""Distance from an integer that still counts as one (UNIT-2)."""
_LEAST_PIXELS = 16
"""Fewer values are no evidence (UNIT-2)."""
_COARSEST_ROUNDING = 0.05


@dataclass(frozen=True, slots=True)
class UnitDecision:
    """What the patterns hold, by whose declaration, and what the data themselves show."""

    unit: Unit
    decided_by: str
    evidence: dict[str, Any]


def decide_unit(
    measurements: NDArray[Any],
    *,
    probe: NDArray[Any] | None = None,
    bad_pixels: NDArray[np.bool_] | None = None,
    explicit: str = "auto",
    declared: str | None = None,
    convention: str = "",
    where: str = "",
) -> UnitDecision:
    """Decide what patterns hold: the argument, else the file's declaration, else a measurement, else an error.

    Args:
        measurements: (M, N, N) patterns, finite and not negative.
        probe: (modes, N, N) complex or None; its energy is evidence.
        bad_pixels: (N, N) bool or None; these pixels are no evidence.
        explicit: The caller's choice; ``"auto"`` for none.
        declared: The file's key ``measurement``.
        convention: Free text of the file; the words AMPLITUDE or COUNTS count if only one occurs.
        where: The file, for messages.

    Raises:
        ContractError: unknown unit, no evidence, or a declaration that the data contradict.
    """
    evidence = _evidence(measurements, probe, bad_pixels)
    words = set(re.findall(r"\b(AMPLITUDE|COUNTS)\b", convention))
    candidates: list[tuple[str, str]] = []
    if explicit != "auto":
        candidates.append((explicit, "argument"))
    if declared is not None:
        candidates.append((declared.strip(), "key 'measurement'"))
    if len(words) == 1:
        candidates.append((words.pop().lower(), "key 'convention'"))
    for word, decided_by in candidates:
        _check_word(word, decided_by, evidence, where)
        return UnitDecision(word, decided_by, evidence)  # type: ignore[arg-type]
    return _measured(evidence, where)


def _check_word(word: str, decided_by: str, evidence: dict[str, Any], where: str) -> None:
    if word not in UNITS:
        raise ContractError(
            Problem(f"{where}: measurement", "scan.unit", " or ".join(UNITS), f"{word!r} ({decided_by})", _REMEDY)
        )
    opposite = {"counts": "amplitude", "amplitude": "counts"}.get(word)
    if opposite is not None and evidence["values"] == opposite == evidence["probe_energy"]:
        raise ContractError(
            Problem(
                f"{where}: measurement",
                "scan.unit_contradicted",
                f"{word}, as declared by the {decided_by}",
                f"{opposite}, by the values and by the probe's energy",
                _REMEDY,
            )
        )


def _measured(evidence: dict[str, Any], where: str) -> UnitDecision:
    values, energy = evidence["values"], evidence["probe_energy"]
    if evidence["dtype_kind"] in "iu":
        return UnitDecision("counts", "measured: integer dtype", evidence)
    if values is not None and energy in (None, values):
        return UnitDecision(values, "measured: values", evidence)
    if values is None and energy is not None:
        return UnitDecision(energy, "measured: probe energy", evidence)
    raise ContractError(
        Problem(
            f"{where}: patterns", "scan.unit_undeclared", "patterns of a known unit", _undecided(evidence), _QUESTION
        )
    )


def _undecided(evidence: dict[str, Any]) -> str:
    """What the patterns show, in words."""
    values, energy = evidence["values"], evidence["probe_energy"]
    if values is not None:
        return f"values that look like {values}, but a probe with the energy of {energy}"
    return f"fractions, in sum {evidence['mean_sum']:.4g} per pattern"


def _evidence(measurements: NDArray[Any], probe: NDArray[Any] | None, bad: NDArray[np.bool_] | None) -> dict[str, Any]:
    """What an evenly spaced sample of patterns shows about its unit."""
    M = len(measurements)
    sample = measurements[np.unique(np.linspace(0, M - 1, min(M, SAMPLE)).round().astype(int))]
    good = slice(None) if bad is None else ~bad
    pixels = sample.reshape(len(sample), *measurements.shape[1:])[:, good].reshape(len(sample), -1).astype(np.float64)
    sums = float(pixels.sum(axis=1).mean())
    squares = float(np.square(pixels).sum(axis=1).mean())
    energy = None if probe is None else float(np.sum(np.square(np.abs(probe.astype(np.complex128)))))
    return {
        "dtype_kind": measurements.dtype.kind,
        "values": _by_values(pixels, measurements.dtype),
        "probe_energy": _by_energy(energy, sums, squares),
        "mean_sum": sums,
        "mean_sum_of_squares": squares,
        "probe_sum_of_squares": energy,
    }


def _by_values(pixels: NDArray[np.float64], dtype: np.dtype[Any]) -> Unit | None:
    """Counts if all values are integers; amplitude if all squares are, and some values are not."""
    if dtype.kind in "iu":
        return "counts"
    values = pixels[pixels > 0]
    rounding = 4 * float(np.finfo(dtype).eps)
    # Values too large for their precision cannot show whether they are integers.
    exact = values[values * rounding < _COARSEST_ROUNDING]
    if _all_integers(exact, rounding):
        return "counts"
    squares = np.square(values[np.square(values) * rounding < _COARSEST_ROUNDING])
    return "amplitude" if _all_integers(squares, rounding) else None


def _all_integers(values: NDArray[np.float64], rounding: float) -> bool:
    nearest = np.round(values)
    close = np.abs(values - nearest) <= np.maximum(_INTEGER_TOLERANCE, values * rounding)
    return len(values) >= _LEAST_PIXELS and bool(np.all(close & (nearest >= 1)))


def _by_energy(energy: float | None, sums: float, squares: float) -> Unit | None:
    """The unit whose photons per pattern agree with the probe's energy within a factor of 2, if only one does."""
    if not energy or not sums or not squares:
        return None
    as_counts, as_amplitude = (0.5 <= energy / photons <= 2 for photons in (sums, squares))
    if as_counts == as_amplitude:
        return None
    return "counts" if as_counts else "amplitude"
