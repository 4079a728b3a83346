"""Numbers of specs/physics.md that both backends share."""

from dataclasses import dataclass
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

PRIOR_WIDTHS: Final = (24, 40, 56, 64)
"""Channels of the learned prior at half resolution and below (PRI-1)."""

PRIOR_HALO_PX: Final = 96
"""As ``HALO_PX``, for the learned prior, whose receptive field has a radius of 96 px."""


@dataclass(frozen=True)
class PassSchedule:
    """Passes of a network or of a level (NET-5, NET-12).

    Attributes:
        passes: Their number.
        first_damping, last_damping: As ``FIRST_DAMPING`` and ``LAST_DAMPING``.
        momentum: As ``MOMENTUM``.
        smoothing_counts: None: the step towards the measured moduli (NET-5). Else that of the Poisson likelihood, with
            this many counts added to measured and simulated ones (PRI-10).
    """

    passes: int
    first_damping: float = FIRST_DAMPING
    last_damping: float = LAST_DAMPING
    momentum: float = MOMENTUM
    smoothing_counts: float | None = None

    def dampings(self) -> list[float]:
        """Damping of each pass, geometric from the first to the last; the first one of a single pass."""
        ratio = (self.last_damping / self.first_damping) ** (1 / max(self.passes - 1, 1))
        return [self.first_damping * ratio**number for number in range(self.passes)]


COARSE_PASSES: Final = PassSchedule(16, momentum=0.9)
"""Passes at every level below full resolution (NET-12). Measured (benchmarks/RESULTS.md): 12 to 20 passes with a
momentum of .9 are stable with these dampings; with a last damping of 4 they diverge on synth64."""

PRIOR_PASSES: Final = PassSchedule(32, first_damping=1.0, momentum=0.9, smoothing_counts=0.03)
"""Passes with the learned prior at coarse levels (PRI-10). Measured (benchmarks/RESULTS.md)."""

FINEST_PRIOR_PASSES: Final = (
    (0.0, PassSchedule(8, first_damping=2.0, momentum=0.8, smoothing_counts=0.03)),
    (100.0, PassSchedule(8, first_damping=1.0, momentum=0.9, smoothing_counts=0.03)),
    (1e3, PassSchedule(10, first_damping=0.5, momentum=0.9, smoothing_counts=0.03)),
    (1e4, PassSchedule(24, first_damping=0.5, momentum=0.9, smoothing_counts=0.03)),
)
"""Passes with the learned prior at full resolution, each from so many photons per illuminated object pixel (PRI-10).
Measured (benchmarks/RESULTS.md): with few photons long steps carry noise into the object; with many, more and longer
ones are needed."""


def finest_prior_passes(photons_per_px: float) -> PassSchedule:
    """Passes with the learned prior at full resolution, from a coarser level's object (PRI-10)."""
    return max((row for row in FINEST_PRIOR_PASSES if row[0] <= photons_per_px), key=lambda row: row[0])[1]


def finest_passes(passes: int) -> PassSchedule:
    """Passes at full resolution from a coarser level's object (NET-12). Measured (benchmarks/RESULTS.md): the start is
    near, so that a damping from 2 leaves less noise than one from 0.5."""
    return PassSchedule(passes, first_damping=2.0, momentum=0.7)
