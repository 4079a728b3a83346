"""The learned prior and the priors' terms in NumPy, complex128 (specs/prior.md, PRI-1, PRI-2, PRI-8, PRI-10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.testing.reference_network import convolution, shuffled, unshuffled

Real = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]


def denoised(weights: Mapping[str, Real], canvas: Complex, sigma: Real, *, levels: int = 4) -> Complex:
    """The clean canvas (H, W) of a noisy one.

    Args:
        weights: By name, ``first.weight`` (out, in, kh, kw) and so on.
        canvas: (H, W).
        sigma: (H, W) noise level.
        levels: Resolutions of the network.
    """
    mean = canvas.mean()
    turn = mean / abs(mean) if abs(mean) > 0 else 1.0
    turned = canvas / turn
    height, width = canvas.shape
    multiple = 2**levels
    features = np.stack((turned.real - 1, turned.imag, sigma))
    image = np.pad(features, ((0, 0), (0, -height % multiple), (0, -width % multiple)))

    def layer(name: str, values: Real) -> Real:
        return convolution(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def block(name: str, values: Real) -> Real:
        inner = layer(f"{name}.inner", values)
        return values + layer(f"{name}.outer", inner / (1 + np.exp(-inner)))

    code, kept = layer("first", unshuffled(image)), []
    for level in range(levels - 1):
        kept.append(block(f"before.{level}", code))
        code = layer(f"down.{level}", unshuffled(kept[-1]))
    code = block(f"before.{levels - 1}", code)
    for level in reversed(range(levels - 1)):
        finer = layer(f"up.{level}", code).repeat(2, axis=1).repeat(2, axis=2)
        code = block(f"after.{level}", kept[level] + finer)
    change = shuffled(layer("last", code))[:, :height, :width] * sigma
    return np.asarray(canvas + (change[0] + 1j * change[1]) * turn)


def total_variation(object_: Complex, *, smoothing: float = 0.01) -> float:
    """``sum sqrt(|O_y|^2 + |O_x|^2 + smoothing^2)`` over all pixels but those of the last row and column."""
    down, right = object_[1:, :-1] - object_[:-1, :-1], object_[:-1, 1:] - object_[:-1, :-1]
    return float(np.sqrt(np.abs(down) ** 2 + np.abs(right) ** 2 + smoothing**2).sum())
