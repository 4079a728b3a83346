"""Priors of the object in TensorFlow; what holds for both backends stands in ``priors``."""

from __future__ import annotations

from priors import Priors
from ptycho_data.fitting import to_pairs
from ptycho_data.fitting.joint import from_pairs
from ptycho_tf.framework import tf
from ptycho_tf.object_priors import make_prior
from ptycho_tf.prior import PriorNet


def denoised(canvas, sigma):
    """The network that is shipped, on one canvas."""
    return PriorNet.pretrained()(tf.constant(canvas[None]), tf.constant(sigma[None]))[0].numpy()


def gradient(prior, loss, object_, fraction):
    """Of a prior's term at a fraction of a fit."""
    pairs = tf.constant(to_pairs(object_))
    term = make_prior(prior, loss, object_.shape)
    term.set(pairs, fraction)
    return from_pairs(term.gradient(pairs).numpy())


class TestPriors(Priors):
    """specs/prior.md, in TensorFlow."""

    denoised = staticmethod(denoised)
    gradient = staticmethod(gradient)
