"""The network ``unrolled`` and its training loss in NumPy, float64 (specs/training.md, NET-5 to NET-7 and TRN-1).

One group at a time, written for readability: an oracle for the backends, which share no code with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.testing import reference

Real = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]
Weights = Mapping[str, Real]

FIRST_DAMPING, LAST_DAMPING = 0.5, 10.0
SEEN_LIGHT = 0.3
MOMENTUM = 0.85
SMALLEST_INTENSITY = 1e-8
EARLIER_ITERATIONS = 0.3


def unrolled(
    weights: Weights,
    counts: Real,
    probe: Complex,
    coords_relative: Real,
    mean_counts: float,
    *,
    iterations: int,
    passes: int,
    canvas_shape: tuple[int, int],
    good: NDArray[np.bool_] | None = None,
) -> list[Complex]:
    """Estimates of one group's object after each iteration, each (H, W).

    Args:
        weights: By name, ``nets.0.in_conv.weight`` (out, in, kh, kw) and so on.
        counts: (C, N, N), zero frequency at [N // 2, N // 2].
        probe: (K, N, N), any scale.
        coords_relative: (2, C) [x, y], centre minus position.
        mean_counts: Mean photons per pattern.
        canvas_shape: (H, W); the group's centre lies on pixel [H // 2, W // 2].
        good: (N, N), True where a detector pixel counts.
    """
    probe = reference.normalised_probe(probe, 1.0)
    N, frame = probe.shape[-1], (-(canvas_shape[0] // 2), -(canvas_shape[1] // 2))
    amplitude = np.sqrt(np.asarray(counts, np.float64) / mean_counts)
    power = (np.abs(probe) ** 2).sum(0)
    brightest = power.max()
    sites = [-np.asarray(coords_relative, np.float64)[:, [member]].T for member in range(len(counts))]
    lights = [reference.scatter_add(power[None], site, canvas_shape, frame).real for site in sites]
    light = np.sum(lights, axis=0)
    seen = light / (light + SEEN_LIGHT * brightest)
    object_ = np.ones(canvas_shape, np.complex128)
    velocity = np.zeros_like(object_)
    estimates = []
    for iteration in range(iterations):
        before = object_
        for turn in range(iteration * passes, (iteration + 1) * passes):
            fraction = turn / max(iterations * passes - 1, 1)
            damping = brightest * FIRST_DAMPING ** (1 - fraction) * LAST_DAMPING**fraction
            visited = []
            for member, site in enumerate(sites):
                (patch,) = reference.extract_patches(object_, site, N, frame)
                change = _replaced(patch, probe, amplitude[member], good)
                step = reference.scatter_add(change[None], site, canvas_shape, frame) / (lights[member] + damping)
                velocity = MOMENTUM * velocity + step
                object_ = object_ + step + MOMENTUM * velocity
                visited.append(object_)
            if turn == iterations * passes - 1:
                object_ = np.mean(visited, axis=0)
        moved = object_ - before
        features = np.stack((object_.real - 1, object_.imag, moved.real, moved.imag, seen))
        real, imag = canvas_net(_below(weights, f"nets.{iteration}."), features)
        object_ = object_ + (real + 1j * imag) * seen
        estimates.append(object_)
    return estimates


def passes_on_canvas(
    object_: Complex,
    amplitude: Real,
    probe: Complex,
    positions_px: Real,
    subsets: Sequence[NDArray[np.int64]],
    *,
    origin_yx_px: Real,
    dampings: Sequence[float],
    momentum: float,
    good: NDArray[np.bool_] | None = None,
    smoothing: float | None = None,
    pull: Callable[[int, Complex], tuple[Complex, float]] | None = None,
) -> Complex:
    """The object (H, W) after passes without a net over subsets of a scan: the mean over the last pass (NET-5, NET-12).

    Args:
        object_: (H, W) to begin with.
        amplitude: (M, N, N) moduli, zero frequency at [N // 2, N // 2].
        probe: (K, N, N) as it is.
        positions_px: (M, 2) [x, y].
        subsets: Indices of the patterns, in the order of a pass.
        origin_yx_px: (2,) of the canvas.
        dampings: d of each pass, over max sum_k |P_k|^2.
        momentum: Of the steps.
        good: (N, N), True where a detector pixel counts.
        smoothing: e of the Poisson step (PRI-10), or None: steps towards the moduli.
        pull: Gives Z and l of PRI-10 from the number of a pass and the object before it.
    """
    probe, positions = np.asarray(probe, np.complex128), np.asarray(positions_px, np.float64)
    object_ = np.asarray(object_, np.complex128)
    shape, power = (object_.shape[0], object_.shape[1]), (np.abs(probe) ** 2).sum(0)
    velocity, visited = np.zeros_like(object_), [object_]
    for number, damping in enumerate(dampings):
        visited = []
        target, weight = (object_, 0.0) if pull is None else pull(number, object_)
        for subset in subsets:
            where = positions[subset]
            light = reference.scatter_add(np.repeat(power[None], len(where), 0), where, shape, origin_yx_px).real
            patches = reference.extract_patches(object_, where, probe.shape[-1], origin_yx_px)
            changes = np.stack(
                [
                    _replaced(patch, probe, amplitude[index], good, smoothing)
                    for patch, index in zip(patches, subset, strict=True)
                ]
            )
            step = reference.scatter_add(changes, where, shape, origin_yx_px) + weight * (target - object_)
            step = step / (light + damping * power.max() + weight)
            velocity = momentum * velocity + step
            object_ = object_ + step + momentum * velocity
            visited.append(object_)
    mean: Complex = np.mean(visited, axis=0)
    return mean


def training_loss(
    estimates: list[list[Complex]],
    counts: Real,
    probe: Complex,
    coords_relative: Real,
    mean_counts: Real,
    *,
    loss: str,
    good: NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """Training loss, and the loss of the last estimates alone.

    Args:
        estimates: Of each group, by iteration.
        counts: (B, C, N, N).
        coords_relative: (B, 1, 2, C); ``mean_counts`` (B,).
        loss: ``amplitude`` or ``poisson``.
    """
    probe = reference.normalised_probe(probe, 1.0)
    N = probe.shape[-1]
    weights = [EARLIER_ITERATIONS] * (len(estimates[0]) - 1) + [1.0]
    measured = counts / mean_counts[:, None, None, None]
    # The smoothing EPS_COUNTS is in counts: it depends on the group's mean counts, so groups are evaluated one by one.
    function = {"amplitude": reference.amplitude_loss, "poisson": reference.poisson_loss}[loss]
    chosen = np.ones((N, N), bool) if good is None else good
    total = float(measured[..., chosen].sum())
    values = []
    for number in range(len(weights)):
        value = 0.0
        for group, canvases in enumerate(estimates):
            height, width = canvases[number].shape
            where = -np.asarray(coords_relative[group, 0], np.float64).T
            patches = reference.extract_patches(canvases[number], where, N, (-(height // 2), -(width // 2)))
            simulated = reference.simulate_counts(patches, probe)
            mine = float(measured[group][..., chosen].sum())
            if mine > 0:
                value += function(simulated, measured[group], EPS_COUNTS / mean_counts[group], good) * mine
        values.append(value / total)
    return float(np.dot(weights, values)), values[-1]


def canvas_net(weights: Weights, canvas: Real) -> Real:
    """The U-Net of NET-7: (inputs, H, W) to (2, H, W)."""
    _, height, width = canvas.shape
    padded = np.pad(canvas, ((0, 0), (0, -height % 4), (0, -width % 4)))

    def layer(name: str, image: Real, stride: int = 1) -> Real:
        return convolution(image, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)

    fine = _silu(layer("in_conv", unshuffled(padded)))
    fine = fine + _silu(layer("fine", fine))
    coarse = _silu(layer("down", fine, 2))
    coarse = coarse + _silu(layer("coarse", coarse))
    up = layer("up", coarse).repeat(2, axis=1).repeat(2, axis=2)
    fine = _silu(layer("merge", fine + up))
    return shuffled(layer("out_conv", fine))[:, :height, :width]


def convolution(image: Real, weight: Real, bias: Real, stride: int = 1) -> Real:
    """Cross-correlation of (in, H, W) with (out, in, k, k), zeros around; k odd."""
    side = weight.shape[-1]
    padded = np.pad(image, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    height, width = image.shape[1:]
    result = np.zeros((len(weight), -(-height // stride), -(-width // stride)))
    for y in range(side):
        for x in range(side):
            result += np.einsum(
                "oi,ihw->ohw", weight[:, :, y, x], padded[:, y : y + height : stride, x : x + width : stride]
            )
    return result + bias[:, None, None]


def unshuffled(image: Real) -> Real:
    """(C, 2 H, 2 W) to (4 C, H, W): channel, row, column, the last fastest."""
    channels, height, width = image.shape
    parts = image.reshape(channels, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3)
    return parts.reshape(4 * channels, height // 2, width // 2)


def shuffled(image: Real) -> Real:
    """Inverse of :func:`unshuffled`."""
    channels, height, width = image.shape
    parts = image.reshape(channels // 4, 2, 2, height, width).transpose(0, 3, 1, 4, 2)
    return parts.reshape(channels // 4, 2 * height, 2 * width)


def _replaced(patch: Complex, probe: Complex, amplitude: Real, good: Any, smoothing: float | None = None) -> Complex:
    """``sum_k conj(P_k) F^-1[psi_k (a / sqrt(I + tiny) - 1)]`` of one pattern, or the Poisson step of PRI-10."""
    wavefields = reference.far_field(probe * patch)
    simulated = (np.abs(wavefields) ** 2).sum(0)
    excess = amplitude / np.sqrt(simulated + SMALLEST_INTENSITY) - 1
    if smoothing is not None:
        excess = ((amplitude**2 + smoothing) / (simulated + smoothing) - 1) / 2
    if good is not None:
        excess = np.where(good, excess, 0.0)
    back = np.fft.ifft2(np.fft.ifftshift(wavefields * excess, axes=(-2, -1)), norm="ortho")
    return np.asarray((probe.conj() * back).sum(0))


def _silu(values: Real) -> Real:
    return np.asarray(values / (1 + np.exp(-values)))


def _below(weights: Weights, prefix: str) -> dict[str, Real]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
