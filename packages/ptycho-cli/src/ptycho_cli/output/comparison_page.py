"""The page of several runs beside each other (specs/cli.md, CLI-71)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from ptycho_data.checks.advice import over_floor

from ptycho_cli.output.evaluation import resolution
from ptycho_cli.output.markup import code, document, picture, section, table, words
from ptycho_cli.output.run_page import (
    CAPTIONS,
    KINDS,
    Run,
    advice,
    length,
    number,
    residual_and_floor,
    settings_of,
    shown,
    total,
)

_HEAD = ("run", "R", "R / floor", "R held out", "last loss", "epochs", "FRC half-bit [Nyquist]", "pixel", "time", "CPU")


def comparison_page(runs: Sequence[Run]) -> str:
    """The whole page."""
    title = f"Comparison of {len(runs)} runs"
    labels = [_letter(place) for place in range(len(runs))]
    named = list(zip(labels, runs, strict=True))
    return document(
        title,
        f"<h1>{title}</h1>",
        section("Runs", table(_legend(named), head=("", "folder", "what", "data")), _same_data(runs)),
        section("Figures", table([_figures(*one) for one in named], head=_HEAD)),
        section("Settings that differ", _differences(named)),
        *(_row(name, caption, named) for name, caption in CAPTIONS.items()),
        section("Advice", _advice(named)),
        "<footer>Each picture has the greys of its own colour bar, and its own phase reference: compare numbers by "
        "the bars. This page refers to nothing outside itself.</footer>",
    )


def _legend(named: Sequence[tuple[str, Run]]) -> list[tuple[str, ...]]:
    return [(label, code(run.name), words(KINDS[run.kind].lower()), words(run.data)) for label, run in named]


def _same_data(runs: Sequence[Run]) -> str:
    """A note where R and losses of different data stand beside each other."""
    data = {run.data_sha256 for run in runs}
    if () in data:
        return ""
    if len(data) == 1:
        return '<p class="note">All read the same files, by sha256.</p>'
    return "<p><strong>They did not read the same files:</strong> compare R by its ratio to the floor, not losses.</p>"


def _figures(label: str, run: Run) -> list[str]:
    summary = run.summary.get("infer") or run.summary
    residual, floor = residual_and_floor(summary)
    losses = summary.get("losses") or [((summary.get("training") or {}).get("losses") or {}).get("val_loss")]
    curve = run.evaluation.get("frc")
    epochs = summary.get("epochs", (summary.get("training") or {}).get("epochs"))
    wall, cpu = total(run.summary.get("seconds")), total(run.summary.get("cpu_seconds"))
    cells = [
        number(residual),
        number(over_floor(residual, floor), ".2f"),
        number(residual_and_floor(summary, "held_out")[0]),
        number(losses[-1]),
        number(epochs, "d"),
        resolution(curve, "half_bit").removeprefix("at ") if isinstance(curve, Mapping) else "",
        length(summary.get("object_pixel_size_m")),
        f"{wall:.3g} s" if wall is not None else "",
        f"{cpu:.3g} s" if cpu is not None else "",
    ]
    return [label, *(words("" if cell == number(None) else cell) for cell in cells)]


def _differences(named: Sequence[tuple[str, Run]]) -> str:
    """Settings in which those runs differ that have them; blank for the others."""
    tables = []
    for _, run in named:
        known = {
            (part, option): value for part, options in settings_of(run).items() for option, value in options.items()
        }
        tables.append({**known, ("", "device"): run.summary.get("device")})
    names = dict.fromkeys(name for known in tables for name in known)
    rows = []
    for name in names:
        values = [shown(known[name]) if name in known else None for known in tables]
        if len(set(values) - {None}) > 1:
            rows.append([words(": ".join(filter(None, name))), *(words(value or "") for value in values)])
    return table(rows, head=("setting", *(label for label, _ in named))) if rows else "<p>None.</p>"


def _row(name: str, caption: str, named: Sequence[tuple[str, Run]]) -> str:
    """One kind of picture of all runs that have it."""
    found = [(label, run) for label, run in named if name in run.pictures]
    shown_here = "".join(
        picture(run.pictures[name], f"{label}: {run.name}", beside_others=True) for label, run in found
    )
    return section(words(caption), f'<div class="pictures">{shown_here}</div>') if found else ""


def _advice(named: Sequence[tuple[str, Run]]) -> str:
    rows = [(label, words("; ".join(texts))) for label, run in named if (texts := advice(run))]
    return table(rows) if rows else ""


def _letter(place: int) -> str:
    """A, B, ... Z, then A1, B1, ..."""
    turn, letter = divmod(place, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")
