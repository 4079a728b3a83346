"""Probe times object to detector, and patches on a canvas with their exact adjoint (specs/physics.md).

Complex tensors throughout; ``M`` patterns, ``K`` probe modes, patches of N x N pixels. Intensities are in
units of the scan's mean counts, with a probe of unit energy, so that nothing depends on the photon dose.
All functions work eagerly and inside ``tf.function``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_data.canvas import Sites

from ptycho_tf.framework import tf

Tensor = Any
"""A ``tf.Tensor``; its shape and dtype are in the docstrings."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Sites of M patches on a canvas.

    Attributes:
        corners_yx: (M, 2) int64, canvas pixel of each patch's pixel [0, 0], rounded down.
        fractions_yx: (M, 2) float, the rest, from 0 to 1.
        shape: (H, W) of the canvas; (B * H, W) for B group canvases, one below the other. Numbers, or scalar
            tensors where a traced batch leaves B open.
        N: Side of a patch.
        fixed: Whether the positions are not fitted, so that the fractions need no gradient.
    """

    corners_yx: Tensor
    fractions_yx: Tensor
    shape: tuple[Any, Any]
    N: int
    fixed: bool = False

    @classmethod
    def of(cls, sites: Sites) -> Placement:
        """The sites of a scan's patches as tensors."""
        corners, fractions = tf.constant(sites.corners_yx, tf.int64), tf.constant(sites.fractions_yx, tf.float32)
        return cls(corners, fractions, sites.shape, sites.N, fixed=True)

    def __len__(self) -> int:
        return int(self.corners_yx.shape[0])

    def __getitem__(self, index: Any) -> Placement:
        """The patches of a slice, or at integer positions, given as a tensor or array."""
        if isinstance(index, slice):
            return replace(self, corners_yx=self.corners_yx[index], fractions_yx=self.fractions_yx[index])
        rows = tf.convert_to_tensor(index)
        return replace(
            self, corners_yx=tf.gather(self.corners_yx, rows), fractions_yx=tf.gather(self.fractions_yx, rows)
        )


def group_placement(coords_relative: Tensor, shape: tuple[int, int], N: int) -> Placement:
    """Placement of B * C patches on B group canvases of ``shape``, stacked along y.

    The group's centre lies on pixel [H // 2, W // 2] of its canvas, patch c at centre - relative_c.

    Args:
        coords_relative: (B, 1, 2, C) float32, [x, y], centre minus position.
        shape: (H, W) of one group canvas, from :func:`ptycho_data.canvas.geometry.group_canvas_shape`.
        N: Side of a patch.
    """
    batch, channels = _size(coords_relative, 0), _size(coords_relative, 3)
    height, width = shape
    relative_yx = tf.transpose(tf.cast(coords_relative[:, 0, ::-1], tf.float64), (0, 2, 1))
    centre = tf.constant([height // 2, width // 2], tf.float64)
    top_left = tf.reshape(centre - relative_yx, (-1, 2)) - N // 2
    corners = tf.floor(top_left)
    fractions = tf.cast(top_left - corners, tf.float32)
    below = tf.repeat(tf.range(tf.cast(batch, tf.int64)), channels) * height
    corners = tf.cast(corners, tf.int64) + tf.stack((below, tf.zeros_like(below)), axis=1)
    return Placement(corners, fractions, (batch * height, width), N, fixed=True)


def _size(tensor: Tensor, axis: int) -> Any:
    """Length of an axis: a number where it is known, a scalar tensor where it is open."""
    known = tensor.shape[axis]
    return tf.shape(tensor)[axis] if known is None else known


def extract_patches(canvas: Tensor, placement: Placement) -> Tensor:
    """Read (M, N, N) patches from a canvas (H, W), bilinear between pixels (PHY-4).

    Its gradient is :func:`add_patches`; the fractions, that is the positions, have one, too, unless they are fixed.
    """

    @tf.custom_gradient
    def extract_fixed(values: Tensor) -> tuple[Tensor, Any]:
        windows = _read_windows(values, placement.corners_yx, placement.N + 1)
        patches = _interpolate(windows, placement.fractions_yx)
        return patches, lambda upstream: add_patches(upstream, placement)

    @tf.custom_gradient
    def extract(values: Tensor, fractions_yx: Tensor) -> tuple[Tensor, Any]:
        windows = _read_windows(values, placement.corners_yx, placement.N + 1)

        def gradients(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return add_patches(upstream, placement), _slopes(windows, fractions_yx, upstream)

        return _interpolate(windows, fractions_yx), gradients

    return extract_fixed(canvas) if placement.fixed else extract(canvas, placement.fractions_yx)


def add_patches(patches: Tensor, placement: Placement) -> Tensor:
    """Scatter-add (M, N, N) patches on a canvas: the exact adjoint of :func:`extract_patches` (PHY-5)."""

    # Positions of scatter-added patches have no gradient: no fit needs it.
    @tf.custom_gradient
    def add(values: Tensor) -> tuple[Tensor, Any]:
        windows = _spread(values, placement.fractions_yx)
        canvas = _add_windows(windows, placement.corners_yx, placement.shape)
        return canvas, lambda upstream: extract_patches(upstream, placement)

    return add(patches)


def with_patch(canvas: Tensor, patch: Tensor, site: Placement) -> Tensor:
    """The canvas with one patch (1, N, N) added at its site: in place if nothing else refers to the canvas."""
    n, corner = site.N + 1, site.corners_yx[0]
    there = tf.slice(canvas, corner, (n, n)) + _spread(patch, site.fractions_yx)[0]
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=canvas, begin=corner, end=corner + n, strides=tf.ones(2, tf.int64), value=there
    )


def _read_windows(canvas: Tensor, corners_yx: Tensor, n: int) -> Tensor:
    """(H, W) canvas to (M, n, n) windows at integer corners."""
    if corners_yx.shape[0] == 1:
        return tf.slice(canvas, corners_yx[0], (n, n))[None]
    if tf.config.list_logical_devices("GPU"):
        return tf.gather(tf.reshape(canvas, (-1,)), _pixel_indices(corners_yx, n, _size(canvas, 1)))
    # On a CPU slices are faster than a gather of single pixels, and more so for larger patches.
    count = _size(corners_yx, 0)
    windows = tf.TensorArray(canvas.dtype, count, element_shape=(n, n))
    body = lambda i, array: (i + 1, array.write(i, tf.slice(canvas, corners_yx[i], (n, n))))  # noqa: E731
    _, windows = tf.while_loop(lambda i, _: i < count, body, (0, windows), parallel_iterations=1)
    return windows.stack()


def _add_windows(windows: Tensor, corners_yx: Tensor, shape: tuple[Any, Any]) -> Tensor:
    """(M, n, n) windows scatter-added on an (H, W) canvas."""
    height, width = shape
    indices = _pixel_indices(corners_yx, _size(windows, 2), width)
    return tf.reshape(tf.math.unsorted_segment_sum(windows, indices, height * width), (height, width))


def _pixel_indices(corners_yx: Tensor, n: Any, width: Any) -> Tensor:
    """(M, n, n) int32 indices of the windows' pixels in a canvas stored row by row."""
    corners, pixel = tf.cast(corners_yx, tf.int32), tf.range(n)
    first = corners[:, 0] * width + corners[:, 1]
    return first[:, None, None] + (pixel[:, None] * width + pixel)


def _interpolate(windows: Tensor, fractions_yx: Tensor) -> Tensor:
    """Bilinear means of (M, N + 1, N + 1) windows, (M, N, N)."""
    real, dtype = _as_real(windows)
    fy, fx = _fractions(fractions_yx, real.dtype)
    lines = real[:, :-1]
    lines += fy * (real[:, 1:] - lines)
    first = lines[:, :, :-1]
    return _as_values(first + fx * (lines[:, :, 1:] - first), dtype)


def _slopes(windows: Tensor, fractions_yx: Tensor, upstream: Tensor) -> Tensor:
    """Gradient of :func:`_interpolate` with respect to the fractions, (M, 2)."""
    (real, _), (weight, _) = _as_real(windows), _as_real(upstream)
    fy, fx = _fractions(fractions_yx, real.dtype)
    down = real[:, 1:] - real[:, :-1]
    lines = real[:, :-1] + fy * down
    by_y = down[:, :, :-1] + fx * (down[:, :, 1:] - down[:, :, :-1])
    by_x = lines[:, :, 1:] - lines[:, :, :-1]
    slopes = [tf.reduce_sum(part * weight, axis=(1, 2, 3)) for part in (by_y, by_x)]
    return tf.cast(tf.stack(slopes, axis=1), fractions_yx.dtype)


def _spread(patches: Tensor, fractions_yx: Tensor) -> Tensor:
    """Adjoint of :func:`_interpolate`: (M, N, N) to (M, N + 1, N + 1)."""
    real, dtype = _as_real(patches)
    fy, fx = _fractions(fractions_yx, real.dtype)
    right = fx * real
    real = tf.pad(real - right, ((0, 0), (0, 0), (0, 1), (0, 0))) + tf.pad(right, ((0, 0), (0, 0), (1, 0), (0, 0)))
    down = fy * real
    real = tf.pad(real - down, ((0, 0), (0, 1), (0, 0), (0, 0))) + tf.pad(down, ((0, 0), (1, 0), (0, 0), (0, 0)))
    return _as_values(real, dtype)


def _as_real(values: Tensor) -> tuple[Tensor, Any]:
    """The values as real numbers with a last axis of 2 (complex) or 1 (real), and their dtype."""
    if values.dtype.is_complex:
        return tf.bitcast(values, values.dtype.real_dtype), values.dtype
    return values[..., None], values.dtype


def _as_values(real: Tensor, dtype: Any) -> Tensor:
    return tf.bitcast(real, dtype) if dtype.is_complex else real[..., 0]


def _fractions(fractions_yx: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    fractions = tf.cast(fractions_yx, dtype)[:, :, None, None, None]
    return fractions[:, 0], fractions[:, 1]


def detector_wavefields(patches: Tensor, probe: Tensor) -> Tensor:
    """(M, N, N) patches and (K, N, N) probe modes to (M, K, N, N) wavefields at the detector.

    Zero frequency is at [0, 0], unlike in the stored patterns. Unitary, with the transform's factor at the probe, which
    is smaller than the wavefields.
    """
    return tf.signal.fft2d(patches[:, None] * times(probe, 1 / int(probe.shape[-1])))


def back_to_patches(wavefields: Tensor, probe: Tensor) -> Tensor:
    """Adjoint of :func:`detector_wavefields` for the patches: ``sum_k conj(P_k) F^-1[psi_k]``, (M, N, N)."""
    modes = tf.math.conj(times(probe, int(probe.shape[-1])))
    return tf.reduce_sum(tf.signal.ifft2d(wavefields) * modes, axis=1)


def times(field: Tensor, number: float) -> Tensor:
    """A complex field times a real number: on its real view, because complex arithmetic costs several times more."""

    @tf.custom_gradient
    def multiply(values: Tensor) -> tuple[Tensor, Any]:
        real, dtype = _as_real(values)
        return _as_values(real * number, dtype), lambda upstream: times(upstream, number)

    return multiply(field)


def scaled(field: Tensor, factor: Tensor) -> Tensor:
    """A complex field times a real factor of a shape that broadcasts."""
    return field * tf.complex(factor, tf.zeros_like(factor))


def squared_modulus(field: Tensor) -> Tensor:
    """|z|^2 of a complex tensor, smooth at 0."""
    return tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))


def intensity(detector_wavefields: Tensor) -> Tensor:
    """(M, K, N, N) detector wavefields to (M, N, N) intensities: the incoherent sum over modes."""
    return tf.reduce_sum(squared_modulus(detector_wavefields), axis=1)


def simulate(patches: Tensor, probe: Tensor) -> Tensor:
    """Intensities (M, N, N), zero frequency at [0, 0], of (M, N, N) patches under (K, N, N) probe modes."""
    return intensity(detector_wavefields(patches, probe))


def unit_probe(probe: Tensor) -> Tensor:
    """The probe with unit energy: sum over modes and pixels of |P|^2 = 1."""
    return probe / tf.cast(tf.sqrt(tf.reduce_sum(squared_modulus(probe))), probe.dtype)


def illumination(probe: Tensor, placement: Placement) -> Tensor:
    """Summed |P|^2 of all patterns on the canvas, (H, W) real; without gradients."""
    power = tf.reduce_sum(squared_modulus(probe), axis=0)
    # One patch at all sites: its four neighbours, mixed by a product of matrices.
    around = [tf.reshape(tf.pad(power, ((y, 1 - y), (x, 1 - x))), (-1,)) for y in (0, 1) for x in (0, 1)]
    fy, fx = tf.unstack(tf.cast(placement.fractions_yx, power.dtype), axis=1)
    weights = tf.stack(((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx), axis=1)
    n = placement.N + 1
    windows = tf.reshape(tf.linalg.matmul(weights, tf.stack(around)), (-1, n, n))
    return tf.stop_gradient(_add_windows(windows, placement.corners_yx, placement.shape))


def to_corner(patterns: Tensor) -> Tensor:
    """Patterns with zero frequency moved from [N // 2, N // 2] to [0, 0].

    Done once for the data, so that the model need not shift each simulated pattern.
    """
    return tf.signal.ifftshift(patterns, axes=(-2, -1))


def to_centre(patterns: Tensor) -> Tensor:
    """Inverse of :func:`to_corner`."""
    return tf.signal.fftshift(patterns, axes=(-2, -1))


def normalised_intensity(counts: Tensor, mean_counts: Tensor | float) -> Tensor:
    """Counts (..., N, N) in units of the mean counts, zero frequency moved from [N // 2, N // 2] to [0, 0]."""
    return to_corner(counts) / mean_counts


def good_pixels(bad_pixels: NDArray[np.bool_] | None, dtype: str = "float32") -> Tensor | None:
    """Mask of good pixels as a float tensor with zero frequency at [0, 0], or None if all are good."""
    if bad_pixels is None or not np.any(bad_pixels):
        return None
    return to_corner(tf.constant(~np.asarray(bad_pixels), dtype))
