"""Numbers of specs/physics.md that both backends share."""

from typing import Final

EPS_COUNTS: Final = 1e-3
"""Smoothing of the losses at I = 0 and n = 0, in counts (PHY-16, PHY-17)."""
