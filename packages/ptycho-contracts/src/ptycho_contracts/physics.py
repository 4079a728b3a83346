"""Numbers of specs/physics.md that both backends share."""

from typing import Final

EPS_COUNTS: Final = 1e-3
"""Smoothing of the losses at I = 0 and n = 0, in counts (PHY-16, PHY-17)."""

FIRST_DAMPING: Final = 0.5
LAST_DAMPING: Final = 10.0
"""Share of the probe's largest |P|^2 that is added to the illumination which divides a physics step (NET-5): small
at first, for long strides; large in the end, so that the noise of a subset averages out. Geometric in between."""

MOMENTUM: Final = 0.85
"""Nesterov momentum of the physics steps (NET-5)."""

SEEN_LIGHT: Final = 0.3
"""Illumination, as a share of the largest |P|^2 of one pattern, at which a pixel counts as half seen (NET-6)."""

SMALLEST_INTENSITY: Final = 1e-8
"""Added to simulated intensities, in units of the mean counts (NET-5): far below one photon in a pixel, and far above
the rounding of a float32 transform, whose random phase would else carry the measured modulus into the object."""

EARLIER_ITERATIONS: Final = 0.3
"""Weight of every iteration's estimate in the training loss, beside 1 for the last (TRN-1)."""

SMOOTHED_CORRELATION: Final = 1e-4
"""Share of the truth's power below which the modulus of a correlation is smoothed (PHY-33)."""

LEAST_TRUTH: Final = 1e-6
"""Least mean power of a truth that an error is divided by (PHY-33)."""

TILE_PX: Final = 512
HALO_PX: Final = 32
"""Side of a tile in which a large canvas is corrected, and what it sees beyond: twice the net's reach of 16 px, so
that the image does not depend on the tiles."""


def damping_schedule(passes: int) -> list[float]:
    """Damping of each pass, geometric from ``FIRST_DAMPING`` to ``LAST_DAMPING``."""
    ratio = (LAST_DAMPING / FIRST_DAMPING) ** (1 / max(passes - 1, 1))
    return [FIRST_DAMPING * ratio**number for number in range(passes)]
