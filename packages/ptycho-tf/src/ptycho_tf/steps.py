"""The physics step of a network's pass: compare patterns with their measured moduli, update the object (NET-5)."""

from __future__ import annotations

from ptycho_contracts.physics import MOMENTUM, SMALLEST_INTENSITY

from ptycho_tf.framework import tf
from ptycho_tf.physics import (
    Placement,
    Tensor,
    add_patches,
    back_to_patches,
    detector_wavefields,
    extract_patches,
    intensity,
    scaled,
    times,
    with_patch,
)

_LARGE_WAVEFIELDS = 1 << 14
"""From this number of values in the wavefields of one pattern, it is faster to process the patterns one by one, in the
cache, than a whole subset in each operation."""


def physics_step(
    object_: Tensor,
    velocity: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    placement: Placement,
    *,
    divisor: Tensor,
    mask: Tensor | None = None,
    one_by_one: bool = False,
    momentum: float = MOMENTUM,
    smoothing: float | None = None,
    pull: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate and velocity after the step of one subset of the patterns.

    Args:
        object_, velocity: (H, W) complex.
        amplitude: (n, N, N) measured moduli.
        probe: (K, N, N) complex.
        placement: Sites of the n patterns.
        divisor: (H, W) real, illumination and damping.
        mask: (N, N), 1 where a detector pixel is good.
        momentum: Of the step.
        one_by_one: Process the patterns one by one: the same to rounding, but without gradients.
        smoothing: Of a Poisson step, in the unit of the squared moduli; None: steps towards the moduli.
        pull: (H, W) object that the step also goes towards, and its weight, beside the illumination.
    """
    project = back_project_one_by_one if one_by_one else back_project
    step = project(object_, amplitude, probe, placement, mask=mask, smoothing=smoothing)
    if pull is not None:
        step, divisor = step + times(pull[0] - object_, pull[1]), divisor + pull[1]
    step = scaled(step, 1 / divisor)
    velocity = times(velocity, momentum) + step
    return object_ + (step + times(velocity, momentum)), velocity


def goes_one_by_one(probe: Tensor) -> bool:
    """Whether it is faster to process patterns with this probe one by one; never on a GPU, which needs many at once."""
    return probe.shape.num_elements() >= _LARGE_WAVEFIELDS and not tf.config.list_logical_devices("GPU")


def back_project(
    object_: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    placement: Placement,
    *,
    mask: Tensor | None = None,
    smoothing: float | None = None,
) -> Tensor:
    """Sum over patterns of ``sum_k conj(P_k) (psi'_k - psi_k)`` on the canvas, (H, W) complex.

    psi is the simulated wavefield; psi' has the measured modulus, divided among the modes in proportion, and keeps
    the simulated one where ``mask`` is 0. With a smoothing e, ``psi' - psi`` is the gradient of the Poisson likelihood,
    ``psi ((a^2 + e) / (I + e) - 1) / 2``: the same near the measured modulus, unbiased where counts are few.
    """
    patches = extract_patches(object_, placement)
    return add_patches(_corrections(patches, amplitude, probe, mask, smoothing), placement)


def back_project_one_by_one(
    object_: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    placement: Placement,
    *,
    mask: Tensor | None = None,
    smoothing: float | None = None,
) -> Tensor:
    """As :func:`back_project`, with the wavefields of one pattern in memory at a time, and without gradients."""
    count = tf.shape(amplitude)[0]

    def body(number: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        site = placement[number[None]]
        patch = extract_patches(object_, site)
        correction = _corrections(patch, amplitude[number][None], probe, mask, smoothing)
        return number + 1, with_patch(canvas, correction, site)

    start = (tf.constant(0), tf.zeros_like(object_))
    return tf.while_loop(lambda number, _: number < count, body, start, parallel_iterations=1)[1]


def _corrections(
    patches: Tensor, amplitude: Tensor, probe: Tensor, mask: Tensor | None, smoothing: float | None
) -> Tensor:
    """Corrections of patches (n, N, N), times the conjugate probe: ``sum_k conj(P_k) (psi'_k - psi_k)`` of each."""
    wavefields = detector_wavefields(patches, probe)
    simulated = intensity(wavefields)
    if smoothing is None:
        excess = amplitude * tf.math.rsqrt(simulated + SMALLEST_INTENSITY) - 1
    else:
        excess = ((tf.square(amplitude) + smoothing) / (simulated + smoothing) - 1) / 2
    if mask is not None:
        excess = excess * mask
    return back_to_patches(scaled(wavefields, excess[:, None]), probe)
