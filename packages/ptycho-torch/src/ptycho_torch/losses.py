"""Losses on diffraction patterns (specs/physics.md): finite and smooth at I = 0 and n = 0."""

from __future__ import annotations

import torch
from ptycho_contracts.physics import EPS_COUNTS, LEAST_TRUTH, SMOOTHED_CORRELATION
from torch import Tensor

from ptycho_torch.physics import squared_modulus


def amplitude_loss(
    simulated: Tensor, measured: Tensor, *, eps: Tensor | float = EPS_COUNTS, mask: Tensor | None = None
) -> Tensor:
    """``sum (sqrt(I + eps) - sqrt(n + eps))^2 / sum n`` over all good pixels of the batch.

    Args:
        simulated, measured: (..., N, N) intensities in the same unit.
        eps: Smoothing, in that unit; may be (M, 1, 1), one per pattern.
        mask: (N, N), 1 where a pixel counts and 0 elsewhere.
    """
    difference = (simulated + eps).sqrt() - (measured + eps).sqrt()
    return _mean(difference.square(), measured, mask)


def poisson_loss(
    simulated: Tensor, measured: Tensor, *, eps: Tensor | float = EPS_COUNTS, mask: Tensor | None = None
) -> Tensor:
    """``sum (I - n - (n + eps) log((I + eps) / (n + eps))) / sum n``: 0 at I = n, and never less."""
    excess, scale = simulated - measured, measured + eps
    # Near 1 the ratio's logarithm needs log1p; near 0 log1p(excess / scale) loses all digits, and ends at -inf.
    near = excess.abs() < 0.5 * scale
    close_by = torch.log1p(torch.where(near, excess / scale, 0))
    logarithm = torch.where(near, close_by, torch.log(torch.where(near, 1, (simulated + eps) / scale)))
    return _mean(excess - scale * logarithm, measured, mask)


def _mean(values: Tensor, measured: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        values, measured = values * mask, measured * mask
    return values.sum() / measured.sum().clamp_min(torch.finfo(measured.dtype).tiny)


def supervised_error(estimate: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Squared error of patches after each group's best global phase, in units of the truth's power (PHY-33).

    ``(sum w |O|^2 + sum w |T|^2 - 2 |sum w conj(T) O|) / sum w |T|^2``, the mean over groups.

    Args:
        estimate, truth: (groups, C, N, N) complex.
        weight: (N, N) real, illumination of a patch, with maximum 1.
    """
    power = _weighed(squared_modulus(truth), weight)
    least = power.clamp_min(LEAST_TRUTH * float(truth.shape[1]) * weight.sum())
    product = truth.conj() * estimate
    real, imaginary = _weighed(product.real, weight), _weighed(product.imag, weight)
    modulus = (real.square() + imaginary.square() + (SMOOTHED_CORRELATION * least).square()).sqrt()
    return ((_weighed(squared_modulus(estimate), weight) + power - 2 * modulus) / least).mean()


def _weighed(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((1, 2, 3))


LOSSES = {"amplitude": amplitude_loss, "poisson": poisson_loss}
