"""The outcome of a command on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.publish import plain
from ptycho_cli.output.terminal import show


def print_json(report: Mapping[str, Any]) -> None:
    print(json.dumps(plain(report), indent=2, allow_nan=False))


def say(command: str, settings: Mapping[str, Any], first: str, summary: Mapping[str, Any]) -> None:
    """The outcome in one line on stdout, and a hint if R stays high, unless the run is quiet."""
    from ptycho_data.checks.advice import hint

    if not settings.get("enable_progress_bar", True):
        return
    words = [first]
    training = summary.get("training", {})
    reached, uniform = (training.get("losses", {}).get("val_loss"), training.get("uniform_loss"))
    if _is_finite(reached) and _is_finite(uniform):
        words.append(f"val_loss {reached:.4g}, a uniform object's {uniform:.4g}")
    for title in ("residual", "poisson_floor"):
        figures = summary.get(title)
        if isinstance(figures, Mapping):
            words += [f"{title} {name} {value:.4f}" for name, value in figures.items() if _is_finite(value)]
    show("; ".join(words))
    if summary.get("shortened"):
        show(shortened_words(summary["shortened"]))
    advice = hint(command, summary)
    if advice is not None:
        show(with_flags(advice))


def shortened_words(shortened: Sequence[str]) -> str:
    """What was shortened or left out for the time limit, in one line."""
    return "shortened for --max-seconds: " + "; ".join(shortened)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
