"""The figures of an evaluation, in words (specs/cli.md, CLI-18)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.outcome import shortened_words

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


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    for label, text in rows(report):
        yield f"{label:<36} {text}"
    if report.get("truth_declared") is False:
        yield "the truth's file does not say that its object is the true one: it may be a reconstruction"
    if report.get("shortened"):
        yield shortened_words(report["shortened"])
    for entry in report.get("advice", ()):
        yield f"advice: {with_flags(entry['text'])}"


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each figure of the report with its label; what belongs to the one above begins with blanks."""
    if report["kind"] == "truth":
        for name, label in FIGURES:
            yield label, _figure(report, name)
        return
    for part, label in (("used", "used patterns"), ("held_out", "held-out patterns")):
        residual, floor = (report[name].get(part) for name in ("residual", "poisson_floor"))
        ratio = report["residual_over_floor"][part]
        if ratio is not None:
            yield label, f"R {residual:.4g}, {ratio:.2f} times its Poisson floor {floor:.4g}"
    sizes = " + ".join(str(half["patterns"]) for half in report["halves"])
    yield f"half scans ({sizes} patterns)", in_words(report["frc"])
    before = report.get("frc_before")
    if before is not None:
        yield f"  with {before['epochs']} epochs", in_words(before)
    if "what_the_prior_adds" in report:
        yield from _prior_rows(report["what_the_prior_adds"])


def _prior_rows(adds: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the image with the prior has that the data alone do not give."""
    part = adds["difference"]
    share = "undefined" if part is None else f"{part:.1%}"
    yield f"what the prior ({adds['kind']}) adds", f"{share} of the contrast without it"
    if adds["data_alone_half_bit"] is not None:
        place = shown(adds["data_alone_half_bit"])
        yield "  detail that rests on the prior", f"finer than {place} of Nyquist, the half-bit of the half scans"
    used = {key: residual["used"] for key, residual in adds["residual"].items()}
    yield "  R with and without", f"{used['with']:.4g} and {used['without']:.4g}"


def in_words(curve: Mapping[str, Any]) -> str:
    """Where a curve crosses its thresholds, in words."""
    names = {"half": "FRC 0.5", "half_bit": "half-bit"}
    words = [f"{label} {resolution(curve, name)}" for name, label in names.items()]
    states = [curve[f"{name}_crossing"] for name in names]
    if "crossed" in states:
        words[1 if states[1] == "crossed" else 0] += " of Nyquist"
    return ", ".join(words)


def resolution(curve: Mapping[str, Any], name: str) -> str:
    """Where a curve crosses ``half`` or ``half_bit``, with half a period where lengths are known (MET-14)."""
    state = curve[f"{name}_crossing"]
    if state != "crossed":
        return str(state)
    period = curve.get(f"{name}_period_m")
    return f"at {shown(curve[name])}" + ("" if period is None else f" ({1e9 * period:.3g} nm)")


def _figure(report: Mapping[str, Any], name: str) -> str:
    """A figure as text; a resolution only where the curve crosses its threshold."""
    place = name.removeprefix("frc_")
    if place in ("half", "half_bit"):
        return resolution(report["frc"], place).removeprefix("at ")
    return shown(report["figures"][name])


def shown(value: float | None) -> str:
    """A figure as text; None means that it is undefined here."""
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
