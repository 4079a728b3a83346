"""Priors of the object in a joint reconstruction, and how they act over a fit (specs/prior.md, PRI-8 to PRI-11)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

FIRST_SIGMA = 0.5
"""Noise level that the network is told at the start of a fit from empty space."""
LEAST_SIGMA, LARGEST_SIGMA = 0.02, 0.2
"""Bounds of the noise level at the end of a fit. Reasoned: the network was trained on levels from .01, and with more
than .2 it leaves little of an object."""
SIGMA_OF_NOISE = 0.75
"""Noise level at the end of a fit, in units of the noise that the light leaves. Measured (benchmarks/RESULTS.md)."""
ANNEALED = 0.7
"""Fraction of a fit after which the noise level stays at its last value."""
RELEASED = 0.8
"""Fraction of a fit after which a prior that validation is to judge no longer acts."""
JUDGED_GAIN = 0.98
"""An epoch without the prior is preferred where its validation loss is below this part of the lowest one before.
Measured (benchmarks/RESULTS.md): where the image with the prior is nearer to the truth, the loss without it can still
be lower by some thousandths."""
TARGETS_PER_EPOCH = 2
"""How often in an epoch the network makes the object anew that it draws the fit to."""
TV_OF_NOISE = 0.25
"""Weight of total variation times the noise that the light leaves. Measured (benchmarks/RESULTS.md)."""
TV_SMOOTHING = 0.01
"""Total variation is smooth where neighbours differ by less than this."""


@dataclass(frozen=True)
class Prior:
    """What is known of an object before any data, as a term of the loss.

    Attributes:
        kind: ``"network"`` or ``"tv"``.
        photons: Of all patterns that are fitted.
        photons_per_px: Of these, by illuminated object pixel.
        weight: Factor of the term; 1 is what the noise implies.
        first_sigma: Noise level at the start.
        judged: Whether it no longer acts in the last part of a fit, so that validation can tell which part is better.
    """

    kind: str
    photons: float
    photons_per_px: float
    weight: float = 1.0
    first_sigma: float = FIRST_SIGMA
    judged: bool = False

    @property
    def noise(self) -> float:
        """Least rms of the noise of an object pixel, ``1 / sqrt(2 n)`` for its n photons.

        >>> Prior("tv", photons=1e6, photons_per_px=50.0).noise
        0.1
        """
        return float(1 / np.sqrt(2 * self.photons_per_px))

    @property
    def last_sigma(self) -> float:
        """Noise level at the end."""
        return float(np.clip(SIGMA_OF_NOISE * self.noise, LEAST_SIGMA, LARGEST_SIGMA))

    def with_light(self, ratio: float) -> Prior:
        """The same for pixels with more light, such as a coarser level's."""
        return replace(self, photons_per_px=self.photons_per_px * ratio)

    def sigma(self, fraction: float) -> float:
        """Noise level at a fraction of the fit: geometric from the first to the last, then constant.

        >>> prior = Prior("network", photons=1e6, photons_per_px=28.125)
        >>> [round(prior.sigma(t), 3) for t in (0.0, 0.35, 0.7, 1.0)]
        [0.5, 0.224, 0.1, 0.1]
        """
        first = max(self.first_sigma, self.last_sigma)
        return float(first * (self.last_sigma / first) ** min(1.0, fraction / ANNEALED))

    def released(self, fraction: float) -> bool:
        """Whether it no longer acts at this fraction of the fit."""
        return self.judged and fraction >= RELEASED

    def strength(self, fraction: float, loss: str) -> float:
        """Factor of the term at a fraction of the fit, for a loss in units of the photons.

        The network's term is ``strength * sum |O - Z|^2 / 2``, total variation's ``strength * sum sqrt(...)``.

        Args:
            fraction: Of the fit.
            loss: ``"amplitude"``, which is half the negative logarithm of the likelihood, or ``"poisson"``.
        """
        if self.released(fraction):
            return 0.0
        acts = self.sigma(fraction) ** -2 if self.kind == "network" else TV_OF_NOISE / self.noise
        return self.weight * acts / self.photons * (0.5 if loss == "amplitude" else 1.0)
