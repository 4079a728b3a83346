"""Priors of the object as gradients that a joint reconstruction adds to those of its loss (specs/prior.md, PRI-8)."""

from __future__ import annotations

from typing import Protocol

from ptycho_data.fitting import to_pairs
from ptycho_data.fitting.priors import TV_SMOOTHING, Prior

from ptycho_tf.framework import tf
from ptycho_tf.physics import Tensor
from ptycho_tf.prior import PriorNet


class ObjectPrior(Protocol):
    """A term of the loss."""

    def set(self, object_: Tensor, fraction: float) -> None:
        """Act as at this fraction of a fit whose object (H, W, 2) is this."""

    def gradient(self, object_: Tensor) -> Tensor:
        """Of the term at an object (H, W, 2), in a graph."""


class NetworkPrior:
    """``strength * sum |O - Z|^2 / 2`` with the network's Z, which is held between two calls of ``set``."""

    def __init__(self, prior: Prior, loss: str, shape: tuple[int, int]) -> None:
        self._prior, self._loss, self._net = prior, loss, PriorNet.pretrained()
        self._clean, self._strength = tf.Variable(tf.zeros((*shape, 2))), tf.Variable(0.0)

    def set(self, object_: Tensor, fraction: float) -> None:
        strength, sigma = self._prior.strength(fraction, self._loss), self._prior.sigma(fraction)
        self._strength.assign(strength)
        if strength:
            canvas = tf.complex(object_[..., 0], object_[..., 1])[None]
            self._clean.assign(to_pairs(self._net(canvas, tf.fill(canvas.shape, sigma))[0].numpy()))

    def gradient(self, object_: Tensor) -> Tensor:
        return (object_ - self._clean) * self._strength


class TotalVariation:
    """``strength * sum sqrt(|O_y|^2 + |O_x|^2 + smoothing^2)`` with differences to the next row and column."""

    def __init__(self, prior: Prior, loss: str) -> None:
        self._prior, self._loss, self._strength = prior, loss, tf.Variable(0.0)

    def set(self, object_: Tensor, fraction: float) -> None:
        self._strength.assign(self._prior.strength(fraction, self._loss))

    def gradient(self, object_: Tensor) -> Tensor:
        down, right = object_[1:, :-1] - object_[:-1, :-1], object_[:-1, 1:] - object_[:-1, :-1]
        squared = tf.reduce_sum(tf.square(down) + tf.square(right), axis=-1, keepdims=True)
        scale = self._strength / tf.sqrt(squared + TV_SMOOTHING**2)
        down, right = down * scale, right * scale
        padded = [
            tf.pad(down, ((1, 0), (0, 1), (0, 0))),
            tf.pad(right, ((0, 1), (1, 0), (0, 0))),
            tf.pad(down + right, ((0, 1), (0, 1), (0, 0))),
        ]
        return padded[0] + padded[1] - padded[2]


def make_prior(prior: Prior, loss: str, shape: tuple[int, int]) -> ObjectPrior:
    """The gradient of a prior, for a named loss on the patterns."""
    return NetworkPrior(prior, loss, shape) if prior.kind == "network" else TotalVariation(prior, loss)
