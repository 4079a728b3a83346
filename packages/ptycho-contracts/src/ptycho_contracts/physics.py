"""Numbers of specs/physics.md that both backends share."""

from typing import Final

EPS_COUNTS: Final = 1e-3
"""Smoothing of the losses at I = 0 and n = 0, in counts (PHY-16, PHY-17)."""

FIRST_DAMPING: Final = 0.5
LAST_DAMPING: Final = 10.0
"""Fraction of the probe's largest |P|^2 that is added to the illumination which divides a physics step (NET-5): small
at first, for long steps; large at the end, so that the noise of a subset averages out. Geometric in between. Measured
(benchmarks/RESULTS.md): from 0.1 it diverges at 32 passes, from 0.5 it is stable at 6 to 32."""

MOMENTUM: Final = 0.85
"""Momentum [Nesterov] of the physics steps (NET-5). Measured (benchmarks/RESULTS.md): with the mean over the last
pass, better than 0.75 without it; 0.9 is unstable on the demo's scan."""

SEEN_LIGHT: Final = 0.3
"""Illumination, as a fraction of the largest |P|^2 of one pattern, at which a pixel counts as half seen (NET-6)."""

SMALLEST_INTENSITY: Final = 1e-8
"""Added to simulated intensities, in units of the mean counts (NET-5). Reasoned: far below one photon in a pixel, and
far above the rounding of a float32 transform, whose random phase would otherwise carry the measured modulus into the
object."""

EARLIER_ITERATIONS: Final = 0.3
"""Weight of every iteration's estimate in the training loss, beside 1 for the last (TRN-1)."""

SMOOTHED_CORRELATION: Final = 1e-4
"""Fraction of the truth's power below which the modulus of a correlation is smoothed (PHY-33)."""

LEAST_TRUTH: Final = 1e-6
"""Least mean power of a truth that an error is divided by (PHY-33)."""

TILE_PX: Final = 512
HALO_PX: Final = 32
"""Side of a tile in which a large canvas is corrected, and the border around it. Reasoned: twice the radius of the
net's receptive field, 16 px (NET-7), so that the image does not depend on the tiles."""


def damping_schedule(passes: int) -> list[float]:
    """Damping of each pass, geometric from ``FIRST_DAMPING`` to ``LAST_DAMPING``."""
    ratio = (LAST_DAMPING / FIRST_DAMPING) ** (1 / max(passes - 1, 1))
    return [FIRST_DAMPING * ratio**number for number in range(passes)]
