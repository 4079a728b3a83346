"""What to try next, in words, from figures of a run (specs/cli.md, CLI-19, CLI-26, CLI-28)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptycho_contracts.problems import Problem

AT_FLOOR, NEAR_FLOOR = 1.1, 1.5
"""R over its Poisson floor up to which the patterns are explained, and nearly so."""
BELOW_FLOOR = 0.6
"""R over its floor below which the counts are hardly photons. Reasoned: counts of photons times g have g times the
floor's R; a fit that follows the noise of a small scan rarely takes a third of it away."""
FAR_ABOVE = 3.0
"""R over its floor above which something basic may be wrong, such as the orientation of the positions."""
STILL_FALLING = 0.02
"""Relative fall of the loss over the last quarter of the epochs that more epochs would go on with."""
OVERFIT = 1.2
"""R of held-out patterns over that of the used ones, above which the object follows the noise."""
TREND = 0.02
"""Change of the FRC's frequency, as a fraction of Nyquist, that counts as one."""
FEW_MODES, MOST_MODES = 3, 8
ENOUGH_STEPS = 400
"""Steps of a joint reconstruction below which its R is still high with any number of modes."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice; the code is stable, the text may change."""

    code: str
    text: str


def over_floor(residual: Any, floor: Any) -> float | None:
    """R over its floor; None if either is missing or not a positive number."""
    if not (_is_number(residual) and _is_number(floor)) or floor <= 0:
        return None
    return float(residual / floor)


def standing(residual: Any, floor: Any) -> str:
    """Where R stands, in a few words (CLI-19).

    >>> [standing(residual, 0.1) for residual in (0.05, 0.1, 0.14, 0.2, 0.4, None)]
    ['below its floor', 'at its floor', 'near its floor', 'above its floor', 'far above its floor', 'unknown']
    """
    ratio = over_floor(residual, floor)
    if ratio is None:
        return "unknown"
    if ratio < BELOW_FLOOR:
        return "below its floor"
    limits = ((AT_FLOOR, "at its floor"), (NEAR_FLOOR, "near its floor"), (FAR_ABOVE, "above its floor"))
    return next((words for limit, words in limits if ratio <= limit), "far above its floor")


NEAR_FIELD = "the Fresnel number is {:.2g}: the detector is in the near field, which is not modelled"
ORIENTATION_FIRST = "rank the orientations of the positions: inspect with `orientation`"
WRONG_UNIT = "the patterns are hardly counts of photons; state their unit (`measurement`), or multiply out the gain"


def try_next(
    modes: int, *, corrects_positions: bool = False, fits_background: bool = False, falling: bool = True
) -> str:
    """Options of ``reconstruct`` to try if R stays above its floor, the likeliest first.

    Args:
        falling: Whether the losses still fall, so that more epochs may help.
    """
    if modes < FEW_MODES:
        return f"try `modes={FEW_MODES}`"
    options = [f"`modes={min(modes + 2, MOST_MODES)}`"] if modes < MOST_MODES else []
    options += [] if corrects_positions else ["`correct_positions`"]
    options += [] if fits_background else ["`fit_background`"]
    return "try " + (", ".join((["more `epochs`"] if falling else []) + options) or "another model of the experiment")


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
        modes, epochs: Of the joint reconstruction.
        half_bit: Fraction of Nyquist where the FRC of the halves falls below half a bit.
        half_bit_before: The same after fewer epochs; None if unknown.
        corrects_positions, fits_background: What was fitted besides object and probe.
    """
    ratio = over_floor(residual, floor)
    trend = _of_trend(half_bit, half_bit_before, epochs)
    remedy = try_next(modes, corrects_positions=corrects_positions, fits_background=fits_background)
    result = _of_residual(ratio, remedy, rising=[advice.code for advice in trend] == ["frc.rising"])
    if _is_number(held_out) and _is_number(residual) and held_out > OVERFIT * residual:  # type: ignore[operator]
        result.append(
            Advice(
                "overfit",
                f"held-out R {held_out:.4g} is well above the used patterns' {residual:.4g}: the fit "
                "follows their noise; fewer modes or epochs, or more overlap",
            )
        )
    result += trend
    if (
        ratio is not None
        and BELOW_FLOOR <= ratio <= NEAR_FLOOR
        and [advice.code for advice in trend] == ["frc.settled"]
    ):
        result.append(Advice("stop", "R is at or near its floor and the FRC has settled: stop here"))
    return result


def hint(command: str, summary: Mapping[str, Any]) -> str | None:
    """One line after a run whose R stays far above its Poisson floor; else None (CLI-26)."""
    if command == "train":
        return _of_calibration(summary)
    residual, floor = (_used(summary.get(name)) for name in ("residual", "poisson_floor"))
    ratio = over_floor(residual, floor)
    if ratio is not None and ratio < BELOW_FLOOR:
        return f"R {residual:.4g} is below its floor {floor:.4g}: {WRONG_UNIT}"
    if ratio is None or ratio <= NEAR_FLOOR:
        return None
    settings = summary.get("settings", {})
    if command == "reconstruct":
        own = settings.get("reconstruction", {})
        remedy = try_next(
            int(own.get("modes", 1)),
            corrects_positions=bool(own.get("correct_positions")),
            fits_background=bool(own.get("fit_background")),
            falling=still_falling(summary.get("losses") or []),
        )
        longer = _longer(summary, own)
        remedy = f"try {longer}, then {remedy.removeprefix('try ')}" if longer else remedy
    else:
        modes = int(settings.get("model", {}).get("modes", 1))
        more = f"train with `modes={FEW_MODES}`" if modes < FEW_MODES else ""
        if not settings.get("inference", {}).get("refine"):
            remedy = "try `refine=5`" + (f", or {more}" if more else "")
        else:
            remedy = more or "try a larger `refine`, `correct_positions` or `fit_background`"
    if ratio > FAR_ABOVE:
        number: Any = summary.get("fresnel_number")
        near = _is_number(number) and number > 1
        remedy = (
            f"{NEAR_FIELD.format(number)}; else {ORIENTATION_FIRST}" if near else f"{ORIENTATION_FIRST}; then {remedy}"
        )
    return f"R {residual:.4g} is above its floor {floor:.4g}: {remedy}"


def still_falling(losses: Sequence[float]) -> bool:
    """Whether the loss fell by more than 2 % over the last quarter of the epochs; True for too few to tell."""
    if len(losses) < 4:
        return True
    before, last = losses[-1 - len(losses) // 4], losses[-1]
    return bool(before > 0 and (before - last) / before > STILL_FALLING)


def collapsed(summary: Mapping[str, Any], model: str) -> Problem | None:
    """What to say of a training that collapsed, also after its recovery; None if it did not (CLI-28).

    Args:
        summary: Of the training.
        model: Path of the bundle that it wrote.
    """
    training = summary.get("training", {})
    if not training.get("collapsed"):
        return None
    settings = summary.get("settings", {})
    ways = ["more `epochs`"]
    ways += ["`architecture=unrolled`"] if settings.get("model", {}).get("architecture") == "cnn" else []
    if not settings.get("training", {}).get("supervised_weight"):
        ways.append("`synthetic=N` with `supervised_weight`")
    again = ", also when restarted at a third of the learning rate" if training.get("restarts") else ""
    return Problem(
        model,
        "training.collapsed",
        f"a val_loss below 0.98 of a uniform object's {training.get('uniform_loss', math.nan):.4g}",
        f"{training.get('losses', {}).get('val_loss', math.nan):.4g}{again}: the network has learned nothing of the "
        "object, and its images show none; the files are written all the same",
        "train with " + ", or ".join(ways),
    )


def _longer(summary: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What a short fit with few modes should try first; else nothing."""
    epochs, used = summary.get("epochs", 0), summary.get("patterns", {}).get("used", 0)
    fitted = used - (summary.get("validation") or {}).get("patterns", 0)
    an_epoch = math.ceil(fitted / own.get("batch_size", 1))
    if not epochs * an_epoch or epochs * an_epoch >= ENOUGH_STEPS or own.get("modes", 1) >= FEW_MODES:
        return ""
    if summary.get("stopped_by") == "early stopping":
        return ""
    asked = own.get("epochs", epochs)
    longer = ["a longer `max_seconds`"] if summary.get("stopped_by") == "max_seconds" else []
    longer += [f"`epochs={math.ceil(ENOUGH_STEPS / an_epoch)}`"] if asked * an_epoch < ENOUGH_STEPS else []
    return " and ".join(longer)


def _of_calibration(summary: Mapping[str, Any]) -> str | None:
    """What to try if a training's calibrated probe does not explain its patterns."""
    calibration, settings = (summary.get("probe") or {}).get("calibration") or {}, summary.get("settings", {})
    residual, floor, steps = calibration.get("residual"), calibration.get("poisson_floor"), calibration.get("steps")
    ratio = over_floor(residual, floor)
    if ratio is None or ratio <= NEAR_FLOOR or not steps or summary.get("training", {}).get("collapsed"):
        return None
    modes, epochs = (
        int(settings.get(section, {}).get(name, 1))
        for section, name in (("model", "modes"), ("training", "calibration_epochs"))
    )
    suggested = FEW_MODES if modes < FEW_MODES else min(modes + 2, MOST_MODES)
    more = f"`modes={suggested}`" if modes < MOST_MODES else ""
    if steps < ENOUGH_STEPS:
        remedy = f"try `calibration_epochs={math.ceil(ENOUGH_STEPS / (steps / epochs))}`"
        remedy += f", then {more}" if more else ""
    else:
        remedy = f"try {more or f'`calibration_epochs={2 * epochs}`'}"
    return f"the calibrated probe's R {residual:.4g} is above its floor {floor:.4g}: {remedy}"


def _of_residual(ratio: float | None, remedy: str, *, rising: bool) -> list[Advice]:
    if ratio is None:
        return []
    times = f"R is {ratio:.2f} times its Poisson floor"
    if ratio < BELOW_FLOOR:
        return [Advice("residual.below", f"{times}, which no fit of photons can be: {WRONG_UNIT}")]
    if ratio <= AT_FLOOR:
        return [
            Advice("residual.floor", f"{times}: the patterns are explained; R cannot distinguish further, use the FRC")
        ]
    if ratio <= NEAR_FLOOR:
        return [Advice("residual.near", f"{times}: the patterns are nearly explained")]
    if rising:
        then = remedy.replace("more `epochs`, ", "")
        also = f"; if R stays with more epochs, {then}" if then != "try more `epochs`" else ""
        return [Advice("residual.above", f"{times}: the fit has not converged{also}")]
    if ratio > FAR_ABOVE:
        return [Advice("residual.far", f"{times}: something basic is wrong; {ORIENTATION_FIRST}, then {remedy}")]
    return [Advice("residual.above", f"{times}: something is not modelled; {remedy}")]


def _of_trend(now: float | None, before: float | None, epochs: int) -> list[Advice]:
    if not (_is_number(now) and _is_number(before)):
        return []
    change = now - before  # type: ignore[operator]
    text = f"half-bit FRC went from {before:.3f} to {now:.3f} of Nyquist with the last half of the epochs"
    if change > TREND:
        return [Advice("frc.rising", f"{text}: still rising; try `epochs={2 * epochs}`")]
    if change < -TREND:
        return [Advice("frc.falling", f"{text}: falling, the halves fit their own noise; try `epochs={epochs // 2}`")]
    return [Advice("frc.settled", f"{text}: settled")]


def _used(figures: Any) -> Any:
    return figures.get("used") if isinstance(figures, Mapping) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
