"""Network and physics as one trainable model: from groups of counts to simulated patterns and their loss."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ModelConfig
from ptycho_contracts.physics import EARLIER_ITERATIONS, EPS_COUNTS

from ptycho_tf.framework import tf
from ptycho_tf.layers import Make, fresh, weights
from ptycho_tf.losses import LOSSES, supervised_error
from ptycho_tf.network import build_network
from ptycho_tf.physics import (
    Placement,
    Tensor,
    extract_patches,
    group_placement,
    normalised_intensity,
    simulate,
    squared_modulus,
    to_centre,
    unit_probe,
)


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of a batch of groups.

    Attributes:
        total: Loss of all iterations on the diffraction patterns; the last one has the largest weight (TRN-1).
        last: Loss of the last estimate alone, without gradient.
        supervised: PHY-33 of all iterations in the same way (TRN-15); None if the batch has no truth.
        supervised_last: PHY-33 of the last estimate alone, without gradient, or None.
        patches: (B * C, N, N) complex, the last estimate at each pattern, without gradient.
    """

    total: Tensor
    last: Tensor
    supervised: Tensor | None
    supervised_last: Tensor | None
    patches: Tensor


class PtychoModel:
    """A network with the probe that it was trained for.

    Args:
        config: Architecture and channel count.
        probe: (modes, N, N) complex, any scale; kept with unit energy (a scan's mean counts normalise it).
        make: Makes the variables; default: those of seed 0.
        dtype: Of weights and physics, float32 or float64.
        compute_dtype: Of the convolutions; default: ``dtype``.

    Attributes:
        probe: (modes, N, N) complex64 tensor of unit energy.
    """

    def __init__(
        self,
        config: ModelConfig,
        probe: NDArray[np.complex64],
        *,
        make: Make | None = None,
        dtype: str = "float32",
        compute_dtype: str | None = None,
    ) -> None:
        self.config = config
        self.dtype = tf.as_dtype(dtype)
        self.network = build_network(config, make=make or fresh(0, dtype), compute_dtype=compute_dtype or dtype)
        self.probe = unit_probe(tf.constant(probe, tf.complex64))

    @property
    def weights(self) -> dict[str, tf.Variable]:
        """The network's variables by their names in a bundle, such as ``network.nets.0.in_conv.weight``."""
        return dict(weights(self.network, "network."))

    @property
    def infers_whole_canvas(self) -> bool:
        """Whether the network takes all patterns of a scan at once."""
        return self.network.infers_whole_canvas

    def probe_array(self) -> NDArray[np.complex64]:
        """(K, N, N) probe of unit energy."""
        probe: NDArray[np.complex64] = self.probe.numpy()
        return probe

    def weight_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The network's weights by their names in a bundle."""
        return {name: variable.numpy() for name, variable in self.weights.items()}

    def with_probe(self, probe: NDArray[np.complex64]) -> PtychoModel:
        """The same network with another probe of unit energy; this model stays as it is."""
        other = copy(self)
        other.probe = tf.constant(probe)
        return other

    def __call__(
        self, batch: Mapping[str, Tensor], *, canvas_shape: tuple[int, int], mask: Tensor | None = None
    ) -> tuple[list[Tensor], Placement, Tensor]:
        """Object estimates on the groups' canvases.

        Args:
            batch: Tensors of a :class:`ptycho_contracts.records.Batch`, by name.
            canvas_shape: (H, W) of one group canvas.
            mask: (N, N) of good pixels, zero frequency at [0, 0].

        Returns:
            estimates (the best last, each (B * H, W) complex), the patches' placement, and the measured
            intensities (B * C, N, N) in units of the mean counts, zero frequency at [0, 0].
        """
        counts = tf.cast(batch["counts"], self.dtype)
        groups, (channels, side) = tf.shape(counts)[0], counts.shape[1:3]
        mean_counts = tf.cast(batch["mean_counts"], self.dtype)
        measured = tf.reshape(normalised_intensity(counts, mean_counts[:, None, None, None]), (-1, side, side))
        placement = group_placement(batch["coords_relative"], canvas_shape, side)
        # One member of every group per subset: on its own canvas each then moves as far as in a whole scan.
        subsets = tf.range(channels)[:, None] + tf.range(groups) * channels
        estimates = self.network(
            tf.sqrt(measured), self.probe_for(measured), placement, subsets=subsets, canvases=groups, mask=mask
        )
        return estimates, placement, measured

    def probe_for(self, measured: Tensor) -> Tensor:
        """The probe in the precision of the measurements."""
        return tf.cast(self.probe, tf.complex128 if measured.dtype == tf.float64 else tf.complex64)

    def loss(
        self, batch: Mapping[str, Tensor], *, canvas_shape: tuple[int, int], kind: str, mask: Tensor | None = None
    ) -> Losses:
        """Losses of a batch on its diffraction patterns, and on the true object where the batch holds it."""
        estimates, placement, measured = self(batch, canvas_shape=canvas_shape, mask=mask)
        channels = batch["counts"].shape[1]
        eps = tf.repeat(EPS_COUNTS / tf.cast(batch["mean_counts"], self.dtype), channels)[:, None, None]
        probe = self.probe_for(measured)
        patches = [extract_patches(estimate, placement) for estimate in estimates]
        losses = [LOSSES[kind](simulate(seen, probe), measured, eps=eps, mask=mask) for seen in patches]
        errors = []
        if "truth" in batch:
            truth, power = tf.cast(batch["truth"], probe.dtype), tf.reduce_sum(squared_modulus(probe), 0)
            shape, weight = (-1, *truth.shape[1:]), power / tf.reduce_max(power)
            errors = [supervised_error(tf.reshape(seen, shape), truth, weight) for seen in patches]
        return Losses(
            total=_summed(losses),
            last=tf.stop_gradient(losses[-1]),
            supervised=_summed(errors) if errors else None,
            supervised_last=tf.stop_gradient(errors[-1]) if errors else None,
            patches=tf.stop_gradient(patches[-1]),
        )

    def uniform_loss(self, batch: Mapping[str, Tensor], *, kind: str, mask: Tensor | None = None) -> float:
        """Uniform-object baseline: loss of the best uniform object of a batch. A network that learned is below it."""
        counts = tf.constant(batch["counts"])
        mean_counts = tf.constant(batch["mean_counts"])
        channels, side = counts.shape[1:3]
        measured = tf.reshape(normalised_intensity(counts, mean_counts[:, None, None, None]), (-1, side, side))
        eps = tf.repeat(EPS_COUNTS / mean_counts, channels)[:, None, None]
        empty = tf.broadcast_to(simulate(tf.ones((1, side, side), tf.complex64), self.probe), measured.shape)
        good = empty * (1 if mask is None else mask)
        seen = tf.sqrt(good * measured) if kind == "amplitude" else measured * (1 if mask is None else mask)
        power = tf.reduce_sum(seen) / tf.reduce_sum(good)
        uniform = empty * (tf.square(power) if kind == "amplitude" else power)
        return float(LOSSES[kind](uniform, measured, eps=eps, mask=mask))


def _summed(losses: list[Tensor]) -> Tensor:
    """Value of the last estimate, plus those of all earlier ones with smaller weights."""
    earlier = tf.add_n(losses[:-1]) if losses[:-1] else tf.zeros_like(losses[-1])
    return losses[-1] + EARLIER_ITERATIONS * earlier


def light_on(batch: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
    """Sum of a batch's measured intensities over good pixels, in units of the mean counts: the divisor of its loss."""
    light = batch["counts"] / batch["mean_counts"][:, None, None, None]
    return tf.reduce_sum(light if mask is None else light * to_centre(tf.cast(mask, light.dtype)))
