"""Scores: estimate against truth, halves of a scan against each other, counts against counts (specs/metrics.md)."""

from ptycho_data.metrics.alignment import Alignment, align
from ptycho_data.metrics.area import largest_rectangle, scanned_area
from ptycho_data.metrics.comparison import Comparison, compare, complex_correlation
from ptycho_data.metrics.frc import FrcCurve, frc
from ptycho_data.metrics.residual import ResidualSum, expected_square_error, poisson_floor, residual
from ptycho_data.metrics.residual_map import ResidualMap, residual_map

__all__ = [
    "Alignment",
    "Comparison",
    "FrcCurve",
    "ResidualMap",
    "ResidualSum",
    "align",
    "compare",
    "complex_correlation",
    "expected_square_error",
    "frc",
    "largest_rectangle",
    "poisson_floor",
    "residual",
    "residual_map",
    "scanned_area",
]
