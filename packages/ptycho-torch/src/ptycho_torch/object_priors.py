"""Priors of the object as gradients that a joint reconstruction adds to those of its loss (specs/prior.md, PRI-8)."""

from __future__ import annotations

from typing import Protocol

import torch
from ptycho_data.fitting.priors import TV_SMOOTHING, Prior
from torch import Tensor

from ptycho_torch.physics import squared_modulus
from ptycho_torch.prior import PriorNet


class ObjectPrior(Protocol):
    """A term of the loss."""

    def set(self, object_: Tensor, fraction: float) -> None:
        """Act as at this fraction of a fit whose object (H, W) is this."""

    def add_gradient(self, object_: Tensor) -> None:
        """Add the term's gradient to that of the object (H, W)."""


class NetworkPrior:
    """``strength * sum |O - Z|^2 / 2`` with the network's Z, which is held between two calls of ``set``."""

    def __init__(self, prior: Prior, loss: str, *, device: torch.device) -> None:
        self._prior, self._loss, self._net = prior, loss, PriorNet.pretrained().to(device)
        self._clean: Tensor | None = None
        self._strength = 0.0

    def set(self, object_: Tensor, fraction: float) -> None:
        self._strength, sigma = self._prior.strength(fraction, self._loss), self._prior.sigma(fraction)
        if self._strength:
            with torch.no_grad():
                self._clean = self._net(object_[None], object_.real.new_full((1, *object_.shape), sigma))[0]

    def add_gradient(self, object_: Tensor) -> None:
        if self._strength and self._clean is not None and object_.grad is not None:
            object_.grad.add_(object_.detach() - self._clean, alpha=self._strength)


class TotalVariation:
    """``strength * sum sqrt(|O_y|^2 + |O_x|^2 + smoothing^2)`` with differences to the next row and column."""

    def __init__(self, prior: Prior, loss: str) -> None:
        self._prior, self._loss, self._strength = prior, loss, 0.0

    def set(self, object_: Tensor, fraction: float) -> None:
        self._strength = self._prior.strength(fraction, self._loss)

    def add_gradient(self, object_: Tensor) -> None:
        if self._strength and object_.grad is not None:
            inner = object_.detach()
            down, right = inner[1:, :-1] - inner[:-1, :-1], inner[:-1, 1:] - inner[:-1, :-1]
            length = (squared_modulus(down) + squared_modulus(right) + TV_SMOOTHING**2).sqrt()
            down, right = down * (self._strength / length), right * (self._strength / length)
            object_.grad[1:, :-1] += down
            object_.grad[:-1, 1:] += right
            object_.grad[:-1, :-1] -= down + right


def make_prior(prior: Prior, loss: str, *, device: torch.device) -> ObjectPrior:
    """The gradient of a prior, for a named loss on the patterns."""
    return NetworkPrior(prior, loss, device=device) if prior.kind == "network" else TotalVariation(prior, loss)
