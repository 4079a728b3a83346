"""What to try next, in words, from figures of a run (specs/cli.md, CLI-19 and CLI-26)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AT_FLOOR, NEAR_FLOOR = 1.1, 1.5
"""R over its Poisson floor up to which the patterns are explained, and nearly so."""
OVERFIT = 1.2
"""R of held-out patterns over that of the used ones, above which the object follows the noise."""
TREND = 0.02
"""Change of the FRC's frequency, as a fraction of Nyquist, that counts as one."""
FEW_MODES, MOST_MODES = 3, 8


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice; the code is stable, the text may change."""

    code: str
    text: str


def over_floor(residual: Any, floor: Any) -> float | None:
    """R over its floor; None where either is missing or not a positive number."""
    if not (_is_number(residual) and _is_number(floor)) or floor <= 0:
        return None
    return float(residual / floor)


def try_next(modes: int, *, corrects_positions: bool = False, fits_background: bool = False) -> str:
    """Flags of `reconstruct` to try where R stays above its floor, the likeliest first."""
    if modes < FEW_MODES:
        return f"try --modes {FEW_MODES}"
    flags = [f"--modes {min(modes + 2, MOST_MODES)}"] if modes < MOST_MODES else []
    flags += [] if corrects_positions else ["--correct-positions"]
    flags += [] if fits_background else ["--fit-background"]
    return "try more --epochs" + "".join(f", {flag}" for flag in flags)


def advise(
    *,
    residual: float | None,
    floor: float | None,
    held_out: float | None,
    modes: int,
    epochs: int,
    half_bit: float | None,
    half_bit_before: float | None,
    corrects_positions: bool = False,
    fits_background: bool = False,
) -> list[Advice]:
    """Advice on an evaluation without truth.

    Args:
        residual, floor: R of the used patterns and its Poisson floor.
        held_out: R of patterns never used, or None.
        modes, epochs: Of the descent.
        half_bit: Fraction of Nyquist where the FRC of the halves falls below half a bit.
        half_bit_before: The same after fewer epochs; None where that is not known.
        corrects_positions, fits_background: What the descent fitted beside object and probe.
    """
    ratio = over_floor(residual, floor)
    trend = _of_trend(half_bit, half_bit_before, epochs)
    remedy = try_next(modes, corrects_positions=corrects_positions, fits_background=fits_background)
    found = _of_residual(ratio, remedy, rising=[advice.code for advice in trend] == ["frc.rising"])
    if _is_number(held_out) and _is_number(residual) and held_out > OVERFIT * residual:  # type: ignore[operator]
        found.append(
            Advice("overfit", f"held-out R {held_out:.4g} is well above the used patterns' {residual:.4g}: the fit "
                   "follows their noise; fewer modes or epochs, or more overlap")
        )  # fmt: skip
    found += trend
    if ratio is not None and ratio <= NEAR_FLOOR and [advice.code for advice in trend] == ["frc.settled"]:
        found.append(Advice("stop", "R is at or near its floor and the FRC has settled: stop here"))
    return found


def hint(command: str, summary: Mapping[str, Any]) -> str | None:
    """One line after a run that collapsed, or whose R stays far above its Poisson floor; else None (CLI-26)."""
    training = summary.get("training", {})
    if training.get("collapsed"):
        return (
            f"collapsed: val_loss {training.get('losses', {}).get('val_loss', math.nan):.4g} is no better than a flat "
            f"object's {training.get('flat_loss', math.nan):.4g}: train longer, or with another --seed"
        )
    residual, floor = (_used(summary.get(name)) for name in ("residual", "poisson_floor"))
    ratio = over_floor(residual, floor)
    if ratio is None or ratio <= NEAR_FLOOR:
        return None
    settings = summary.get("settings", {})
    if command == "reconstruct":
        own = settings.get("reconstruction", {})
        remedy = try_next(
            int(own.get("modes", 1)),
            corrects_positions=bool(own.get("correct_positions")),
            fits_background=bool(own.get("fit_background")),
        )
    else:
        modes = int(settings.get("model", {}).get("modes", 1))
        more = f"train with --modes {FEW_MODES}" if modes < FEW_MODES else ""
        if command == "train":
            remedy = more.replace("train with", "try") or "try more --epochs or a longer calibration"
        elif not settings.get("inference", {}).get("refine"):
            remedy = "try --refine 5" + (f", or {more}" if more else "")
        else:
            remedy = more or "try a larger --refine, --correct-positions or --fit-background"
    return f"R {residual:.4g} is above its floor {floor:.4g}: {remedy}"


def _of_residual(ratio: float | None, remedy: str, *, rising: bool) -> list[Advice]:
    if ratio is None:
        return []
    times = f"R is {ratio:.2f} times its Poisson floor"
    if ratio <= AT_FLOOR:
        return [Advice("residual.floor", f"{times}: the patterns are explained; R cannot tell more, go by the FRC")]
    if ratio <= NEAR_FLOOR:
        return [Advice("residual.near", f"{times}: the patterns are nearly explained")]
    if rising:
        return [Advice("residual.above", f"{times}: the descent is not done; with more epochs, if R stays, {remedy}")]
    return [Advice("residual.above", f"{times}: something is not modelled; {remedy}")]


def _of_trend(now: float | None, before: float | None, epochs: int) -> list[Advice]:
    if not (_is_number(now) and _is_number(before)):
        return []
    change = now - before  # type: ignore[operator]
    course = f"half-bit FRC went from {before:.3f} to {now:.3f} of Nyquist with the last half of the epochs"
    if change > TREND:
        return [Advice("frc.rising", f"{course}: still rising; try --epochs {2 * epochs}")]
    if change < -TREND:
        return [Advice("frc.falling", f"{course}: falling, the halves fit their own noise; try --epochs {epochs // 2}")]
    return [Advice("frc.settled", f"{course}: settled")]


def _used(figures: Any) -> Any:
    return figures.get("used") if isinstance(figures, Mapping) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
