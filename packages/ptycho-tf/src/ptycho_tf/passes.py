"""Passes over the subsets of the patterns (NET-5): in one graph with gradients, or read subset by subset without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ptycho_contracts.physics import MOMENTUM
from ptycho_data.canvas import Sites
from ptycho_data.canvas import illumination as scan_illumination

from ptycho_tf.framework import tf
from ptycho_tf.physics import Placement, Tensor, illumination, times
from ptycho_tf.steps import goes_one_by_one, physics_step

Moduli = Callable[[int], Tensor]
"""Gives the measured moduli of a subset by its number, in the order of the passes."""


class TensorPasses:
    """Passes over subsets of one size, whose moduli are in memory: for groups, with gradients for the object.

    The graph holds one step, in a loop: a graph with all steps in sequence takes far longer to build and to optimise
    than a short training takes.

    Args:
        amplitude: (M, N, N) measured moduli.
        probe: (K, N, N) complex.
        placement: Sites of the M patterns.
        subsets: (S, n) indices.
        mask: (N, N) good pixels.

    Attributes:
        light: (H, W) illumination by all subsets.
    """

    def __init__(
        self, amplitude: Tensor, probe: Tensor, placement: Placement, subsets: Tensor, mask: Tensor | None
    ) -> None:
        self._probe, self._mask = probe, mask
        self._count = int(subsets.shape[0])
        self._amplitude = tf.gather(amplitude, subsets)
        self._sites = placement[subsets]
        self._lights = _lights(probe, self._sites)
        self.light = tf.reduce_sum(self._lights, axis=0)

    def __call__(
        self, object_: Tensor, velocity: Tensor, dampings: Tensor, *, ends_with_mean: bool
    ) -> tuple[Tensor, Tensor]:
        """Estimate and velocity after a pass with each of the dampings; the estimate is that after the last subset,
        or the mean over all subsets of the last pass."""
        steps = int(dampings.shape[0]) * self._count

        def body(step: Tensor, object_: Tensor, velocity: Tensor, *visited: Tensor) -> tuple[Tensor, ...]:
            subset = step % self._count
            site = replace(
                self._sites, corners_yx=self._sites.corners_yx[subset], fractions_yx=self._sites.fractions_yx[subset]
            )
            divisor = self._lights[subset] + dampings[step // self._count]
            # Only object and velocity have gradients; a loop would gather one for each tensor that it reads.
            moved = physics_step(
                object_,
                velocity,
                tf.stop_gradient(self._amplitude[subset]),
                tf.stop_gradient(self._probe),
                site,
                divisor=tf.stop_gradient(divisor),
                mask=self._mask,
            )
            counts = tf.cast(step >= steps - self._count, divisor.dtype)
            return step + 1, *moved, *(total + times(moved[0], counts) for total in visited)

        start = (tf.constant(0), object_, velocity, *([tf.zeros_like(object_)] if ends_with_mean else []))
        _, object_, velocity, *visited = tf.while_loop(
            lambda step, *_: step < steps, body, start, parallel_iterations=1, maximum_iterations=steps
        )
        return times(visited[0], 1 / self._count) if visited else object_, velocity


class StreamPasses:
    """Passes over subsets whose moduli are read when they are needed: for a whole scan, without gradients.

    Args and attributes as those of :class:`TensorPasses`, but
        amplitude: Gives the moduli of a subset by its number.
        subsets: Sites of each subset, of any sizes.
        momentum: Of the steps.
        smoothing: Of a Poisson step, in the unit of the squared moduli; None: steps towards the moduli.
        pulled: Whether the steps also go towards an object.
    """

    def __init__(
        self,
        amplitude: Moduli,
        probe: Tensor,
        subsets: Sequence[Sites],
        mask: Tensor | None,
        *,
        momentum: float = MOMENTUM,
        smoothing: float | None = None,
        pulled: bool = False,
    ) -> None:
        self._amplitude, self._probe = amplitude, probe
        self._sites = [Placement.of(subset) for subset in subsets]
        modes = probe.numpy()
        # In NumPy, where sums into slices are cheapest.
        self._lights = [tf.constant(scan_illumination(modes, subset)) for subset in subsets]
        self.light = tf.add_n(self._lights)
        N, real, spec = subsets[0].N, self.light.dtype, tf.TensorSpec
        canvas = spec((None, None), probe.dtype)
        graph = tf.function(
            partial(_step, mask=mask, one_by_one=goes_one_by_one(probe), momentum=momentum, smoothing=smoothing),
            autograph=False,
            input_signature=[
                canvas,
                canvas,
                spec((None, N, N), real),
                spec(probe.shape, probe.dtype),
                spec((None, 2), tf.int64),
                spec((None, 2), tf.float32),
                spec((None, None), real),
                spec((), real),
                *([canvas, spec((), real)] if pulled else []),
            ],
        )
        # One graph for subsets of all sizes; called directly, because its wrapper takes longer than some operations.
        self._step = graph.get_concrete_function()

    def __call__(
        self,
        object_: Tensor,
        velocity: Tensor,
        dampings: Tensor,
        *,
        ends_with_mean: bool,
        pull: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As that of :class:`TensorPasses`; with ``pulled``, each step also goes towards an object (H, W), with this
        weight beside the illumination."""
        for damping in tf.unstack(dampings):
            visited = tf.zeros_like(object_)
            for subset, (site, light) in enumerate(zip(self._sites, self._lights, strict=True)):
                object_, velocity = self._step(
                    object_,
                    velocity,
                    self._amplitude(subset),
                    self._probe,
                    site.corners_yx,
                    site.fractions_yx,
                    light,
                    damping,
                    *(pull or ()),
                )
                if ends_with_mean:
                    visited = visited + object_
        return times(visited, 1 / len(self._sites)) if ends_with_mean else object_, velocity


def _step(
    object_: Tensor,
    velocity: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    corners_yx: Tensor,
    fractions_yx: Tensor,
    light: Tensor,
    damping: Tensor,
    *pull: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """A physics step whose placement is given as tensors, for graphs."""
    shape = tuple(tf.unstack(tf.shape(object_)))
    site = Placement(corners_yx, fractions_yx, shape, int(probe.shape[-1]), fixed=True)
    return physics_step(
        object_, velocity, amplitude, probe, site, divisor=light + damping, pull=pull or None, **options
    )


def _lights(probe: Tensor, sites: Placement) -> Tensor:
    """Illumination (S, H, W) of S subsets of n sites: scatter-added at once, on canvases one below the other."""
    count = int(sites.corners_yx.shape[0])
    height, width = sites.shape
    below = tf.range(count, dtype=tf.int64) * tf.cast(height, tf.int64)
    corners = sites.corners_yx + tf.stack((below, tf.zeros_like(below)), axis=1)[:, None]
    stacked = replace(
        sites,
        corners_yx=tf.reshape(corners, (-1, 2)),
        fractions_yx=tf.reshape(sites.fractions_yx, (-1, 2)),
        shape=(count * height, width),
    )
    return tf.reshape(illumination(probe, stacked), (count, height, width))
