"""Convolutions whose weights have the bundle's names and layout, (out, in, kh, kw), on images (B, H, W, C)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import numpy as np

from ptycho_tf.framework import tf
from ptycho_tf.physics import Tensor

Make = Callable[[tuple[int, ...], float], Any]


def fresh(seed: int, dtype: str) -> Make:
    """Makes variables of ``dtype``, drawn from a generator of its own."""
    rng = np.random.default_rng(seed)
    return lambda shape, bound: tf.Variable(rng.uniform(-bound, bound, shape), dtype=dtype)


def shapes_only(shape: tuple[int, ...], bound: float) -> Any:
    """Makes zeros that take no memory, to be replaced by weights from a file."""
    return np.broadcast_to(np.float32(0), shape)


class Conv:
    """A convolution with zero padding, the same on both sides, also with a stride.

    Args:
        before, after: Number of channels.
        side: Side of the square kernel, odd.
        make: Makes a variable of a shape, with values uniform within a bound.
        zero: Start at zero instead.
    """

    def __init__(self, before: int, after: int, side: int, *, make: Make, zero: bool = False) -> None:
        bound = 0.0 if zero else 1 / math.sqrt(before * side * side)
        self.weight = make((after, before, side, side), bound)
        self.bias = make((after,), bound)

    def __call__(self, image: Tensor, *, stride: int = 1) -> Tensor:
        """(B, H, W, before) to (B, ceil(H / stride), ceil(W / stride), after)."""
        return self.with_kernel(image, tf.transpose(self.weight, (2, 3, 1, 0)), self.bias, stride=stride)

    def from_unshuffled(self, image: Tensor) -> Tensor:
        """The convolution of ``tf.nn.space_to_depth(image, 2)``, with weights ordered as PyTorch unshuffles."""
        after, before, side, _ = self.weight.shape
        kernel = tf.reshape(self.weight, (after, before // 4, 4, side, side))
        kernel = tf.reshape(tf.transpose(kernel, (3, 4, 2, 1, 0)), (side, side, before, after))
        return self.with_kernel(tf.nn.space_to_depth(image, 2), kernel, self.bias)

    def to_shuffled(self, image: Tensor) -> Tensor:
        """The convolution and ``tf.nn.depth_to_space(., 2)``, with weights ordered as PyTorch shuffles."""
        after, before, side, _ = self.weight.shape
        kernel = tf.reshape(self.weight, (after // 4, 4, before, side, side))
        kernel = tf.reshape(tf.transpose(kernel, (3, 4, 2, 1, 0)), (side, side, before, after))
        bias = tf.reshape(tf.transpose(tf.reshape(self.bias, (after // 4, 4))), (after,))
        return tf.nn.depth_to_space(self.with_kernel(image, kernel, bias), 2)

    @staticmethod
    def with_kernel(image: Tensor, kernel: Tensor, bias: Tensor, *, stride: int = 1) -> Tensor:
        """Convolve with a kernel (kh, kw, in, out)."""
        pad = int(kernel.shape[0]) // 2
        pads = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        if image.dtype != kernel.dtype:
            kernel, bias = tf.cast(kernel, image.dtype), tf.cast(bias, image.dtype)
        # "SAME" at stride 1 is the same padding, and the faster path.
        padding = "SAME" if stride == 1 else pads
        return tf.nn.bias_add(tf.nn.conv2d(image, kernel, strides=stride, padding=padding), bias)


def upsample_nearest(image: Tensor) -> Tensor:
    """(B, H, W, C) to (B, 2 H, 2 W, C) by repetition."""
    return tf.nn.depth_to_space(tf.concat([image] * 4, axis=-1), 2)


class Layers:
    """A part of a network. Its own parts are the convolutions and other parts among its attributes."""

    def parts(self) -> dict[str, Any]:
        """Parts by their names in a bundle; those in a list are numbered."""
        parts: dict[str, Any] = {}
        for name, value in vars(self).items():
            numbered = {f"{name}.{number}": item for number, item in enumerate(value)} if type(value) is list else {}
            parts |= {key: part for key, part in (numbered or {name: value}).items() if isinstance(part, Conv | Layers)}
        return parts


def weights(part: Conv | Layers, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every variable of a network with its dotted name, as in a bundle."""
    if isinstance(part, Conv):
        yield f"{prefix}weight", part.weight
        yield f"{prefix}bias", part.bias
        return
    for name, inner in part.parts().items():
        yield from weights(inner, f"{prefix}{name}.")


def with_weights(part: Any, values: Iterator[Tensor]) -> Any:
    """A copy of a network that computes with other tensors, taken in the order of :func:`weights`."""
    clone = copy(part)
    if isinstance(part, Conv):
        clone.weight, clone.bias = next(values), next(values)
        return clone
    for name, value in vars(part).items():
        if isinstance(value, Conv | Layers):
            setattr(clone, name, with_weights(value, values))
        elif type(value) is list:
            setattr(clone, name, [with_weights(item, values) for item in value])
    return clone


def put_weights(part: Conv | Layers, values: Mapping[str, Any], prefix: str = "", *, dtype: str = "float32") -> None:
    """Put variables with the given values, by dotted name, in the places of a network's weights."""
    if isinstance(part, Conv):
        part.weight = tf.Variable(values[f"{prefix}weight"], dtype=dtype)
        part.bias = tf.Variable(values[f"{prefix}bias"], dtype=dtype)
        return
    for name, inner in part.parts().items():
        put_weights(inner, values, f"{prefix}{name}.", dtype=dtype)
