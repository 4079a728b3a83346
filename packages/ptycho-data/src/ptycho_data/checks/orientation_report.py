"""Which way round the positions are, as a check of a scan (specs/cli.md, CLI-13; specs/grouping.md, ORI)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptycho_contracts.records import Scan

from ptycho_data.checks.quality import Check
from ptycho_data.stages import Progress

if TYPE_CHECKING:
    from ptycho_data.checks.orientation import Orientation, OrientationRanking


def ranked_orientations(scan: Scan, *, progress: Progress | None = None) -> tuple[dict[str, Any], Check]:
    """The ranking of the eight orientations as JSON values, and its result for the positions as given.

    Args:
        progress: Called as ``progress("orientation", done, 8)``.

    Raises:
        ContractError: too few patterns, or dark ones.
    """
    from ptycho_data.checks.orientation import rank_orientations

    ranking = rank_orientations(scan, progress=progress)
    facts = {
        "turn": str(winner(ranking)) if ranking.decided else None,
        "decided": ranking.decided,
        "best": _described(ranking.best),
        "twin": _described(ranking.twin),
        "twin_is_equal": ranking.twin_is_equal,
        "patterns": ranking.patterns,
        "residuals": [{**_described(entry), "residual": value} for entry, value in ranking.residuals],
    }
    return facts, judged(ranking)


def winner(ranking: OrientationRanking) -> Orientation:
    """The orientation to take: the best, or the one as given if that is its equal twin."""
    from ptycho_data.checks.orientation import Orientation

    given = Orientation()
    return given if ranking.twin_is_equal and given == ranking.twin else ranking.best


def judged(ranking: OrientationRanking) -> Check:
    """The check in words."""
    from ptycho_data.checks.orientation import Orientation

    given = Orientation()
    residuals = dict(ranking.residuals)
    text = f"R of {ranking.patterns} patterns: {residuals[given]:.4g} as given"
    if not ranking.decided:
        return Check("orientation", "info", f"{text}; undecided: no orientation is clearly better than the others")
    twin = f"; its twin image ({ranking.twin}) explains the data as well: only a better probe distinguishes them"
    if given == ranking.best or (given == ranking.twin and ranking.twin_is_equal):
        other = f"; the twin image ({given.twin}) explains the data as well: only a better probe distinguishes them"
        return Check("orientation", "ok", f"{text}, the best" + (other if ranking.twin_is_equal else ""))
    text += f', {residuals[ranking.best]:.4g} with {ranking.best}: read it with --turn "{ranking.best}"'
    return Check("orientation", "warn", text + (twin if ranking.twin_is_equal else ""), grave=True)


def _described(orientation: Orientation) -> dict[str, Any]:
    return {
        "rule": str(orientation),
        "swap_xy": orientation.swap_xy,
        "flip_x": orientation.flip_x,
        "flip_y": orientation.flip_y,
    }
