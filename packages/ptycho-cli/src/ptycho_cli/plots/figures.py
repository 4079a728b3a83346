"""A figure that a notebook shows as it is, without pyplot (specs/cli.md, CLI-23)."""

from __future__ import annotations

from io import BytesIO

from matplotlib import figure

_SCREEN_DPI = 80


class Figure(figure.Figure):
    """A figure of matplotlib that Jupyter draws where it is the last value of a cell."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=_SCREEN_DPI)
        return content.getvalue()
