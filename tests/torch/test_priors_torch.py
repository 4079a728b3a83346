"""Priors of the object in PyTorch; what holds for both backends stands in ``priors``."""

from __future__ import annotations

import torch
from priors import Priors
from ptycho_torch.object_priors import make_prior
from ptycho_torch.prior import PriorNet


def denoised(canvas, sigma):
    """The network that is shipped, on one canvas."""
    with torch.no_grad():
        return PriorNet.pretrained()(torch.from_numpy(canvas)[None], torch.from_numpy(sigma)[None])[0].numpy()


def gradient(prior, loss, object_, fraction):
    """Of a prior's term at a fraction of a fit."""
    value = torch.from_numpy(object_.copy()).requires_grad_()
    value.grad = torch.zeros_like(value)
    term = make_prior(prior, loss, device=torch.device("cpu"))
    term.set(value.detach(), fraction)
    term.add_gradient(value)
    return value.grad.numpy()


class TestPriors(Priors):
    """specs/prior.md, in PyTorch."""

    denoised = staticmethod(denoised)
    gradient = staticmethod(gradient)
