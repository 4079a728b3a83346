"""Losses on diffraction patterns (specs/physics.md): finite and smooth at I = 0 and n = 0."""

from __future__ import annotations

from ptycho_contracts.physics import EPS_COUNTS, LEAST_TRUTH, SMOOTHED_CORRELATION

from ptycho_tf.framework import tf
from ptycho_tf.physics import Tensor, squared_modulus


def amplitude_loss(
    simulated: Tensor, measured: Tensor, *, eps: Tensor | float = EPS_COUNTS, mask: Tensor | None = None
) -> Tensor:
    """``sum (sqrt(I + eps) - sqrt(n + eps))^2 / sum n`` over all good pixels of the batch.

    Args:
        simulated, measured: (..., N, N) intensities in the same unit.
        eps: Smoothing, in that unit; may be (M, 1, 1), one per pattern.
        mask: (N, N), 1 where a pixel counts and 0 elsewhere.
    """
    difference = tf.sqrt(simulated + eps) - tf.sqrt(measured + eps)
    return _mean(tf.square(difference), measured, mask)


def poisson_loss(
    simulated: Tensor, measured: Tensor, *, eps: Tensor | float = EPS_COUNTS, mask: Tensor | None = None
) -> Tensor:
    """``sum (I - n - (n + eps) log((I + eps) / (n + eps))) / sum n``: 0 at I = n, and never less."""
    excess, scale = simulated - measured, measured + eps
    # Near 1 the ratio's logarithm needs log1p; near 0 log1p(excess / scale) loses all digits, and ends at -inf.
    near = tf.abs(excess) < 0.5 * scale
    close_by = tf.math.log1p(tf.where(near, excess / scale, tf.zeros_like(excess)))
    far = tf.math.log(tf.where(near, tf.ones_like(excess), (simulated + eps) / scale))
    return _mean(excess - scale * tf.where(near, close_by, far), measured, mask)


def _mean(values: Tensor, measured: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        values, measured = values * mask, measured * mask
    least = tf.constant(tf.as_dtype(measured.dtype).as_numpy_dtype(1e-37), measured.dtype)
    return tf.reduce_sum(values) / tf.maximum(tf.reduce_sum(measured), least)


def supervised_error(estimate: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Squared error of patches after each group's best global phase, in units of the truth's power (PHY-33).

    ``(sum w |O|^2 + sum w |T|^2 - 2 |sum w conj(T) O|) / sum w |T|^2``, the mean over groups.

    Args:
        estimate, truth: (groups, C, N, N) complex.
        weight: (N, N) real, illumination of a patch, with maximum 1.
    """
    power = _weighed(squared_modulus(truth), weight)
    least = tf.maximum(power, LEAST_TRUTH * float(truth.shape[1]) * tf.reduce_sum(weight))
    product = tf.math.conj(truth) * estimate
    real, imaginary = _weighed(tf.math.real(product), weight), _weighed(tf.math.imag(product), weight)
    modulus = tf.sqrt(tf.square(real) + tf.square(imaginary) + tf.square(SMOOTHED_CORRELATION * least))
    return tf.reduce_mean((_weighed(squared_modulus(estimate), weight) + power - 2 * modulus) / least)


def _weighed(values: Tensor, weight: Tensor) -> Tensor:
    return tf.reduce_sum(values * weight, axis=(1, 2, 3))


LOSSES = {"amplitude": amplitude_loss, "poisson": poisson_loss}
