"""Parameters of a joint reconstruction, their simulated patterns, and steps of Adam [Adam] (PHY-27 to PHY-32)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_data.fitting import ADAM_BETAS, FIRST_ROOT_BACKGROUND, JointProblem, to_pairs
from ptycho_data.fitting.loop import Arrays, Moments

from ptycho_tf.framework import tf
from ptycho_tf.losses import LOSSES
from ptycho_tf.object_priors import make_prior
from ptycho_tf.physics import Placement, Tensor, extract_patches, good_pixels, normalised_intensity, simulate

_SMALLEST_ROOT = 1e-8
"""The value of PyTorch's Adam."""


class _Adam:
    """State of Adam [Adam] for one real variable; ``eps`` is added to the root of the corrected second moment."""

    def __init__(self, variable: tf.Variable, rate: float) -> None:
        self._variable, self._rate, self._steps = variable, rate, 0
        self._moments = [tf.Variable(tf.zeros_like(variable)) for _ in range(2)]

    def numbers(self, factor: float) -> list[float]:
        """Numbers of the next step that differ between steps: beta powers, rate, eps."""
        self._steps += 1
        first, second = (beta**self._steps for beta in ADAM_BETAS)
        return [first, second, self._rate * factor, _SMALLEST_ROOT * math.sqrt(1 - second)]

    def apply(self, gradient: Tensor, numbers: Tensor) -> None:
        """One step, in place; the operation is fused."""
        first, second, rate, eps = tf.unstack(numbers, num=4)
        tf.raw_ops.ResourceApplyAdam(
            var=self._variable.handle,
            m=self._moments[0].handle,
            v=self._moments[1].handle,
            beta1_power=first,
            beta2_power=second,
            lr=rate,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            epsilon=eps,
            grad=gradient,
        )

    @property
    def state(self) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
        """Both moments, and the number of steps."""
        first, second = (value.numpy().copy() for value in self._moments)
        return first, second, self._steps

    def restore(self, first: NDArray[np.float32], second: NDArray[np.float32], steps: int) -> None:
        """Set the state."""
        self._steps = steps
        for moment, value in zip(self._moments, (first, second), strict=True):
            moment.assign(value)


class JointParameters:
    """Object, probe modes, positions and background, each in its own unit (``ptycho_data.fitting.loop.Fit``).

    Args:
        problem: What is fitted.
    """

    def __init__(self, problem: JointProblem) -> None:
        self._problem, self._placement = problem, Placement.of(problem.sites)
        self._loss, self._mask = LOSSES[problem.loss], good_pixels(problem.source.bad_pixels)
        self._last_start = problem.last_start_yx.astype(np.float32)
        side = problem.sites.N
        # Complex parameters as pairs of real numbers, each with its own moments.
        self._object = tf.Variable(to_pairs(problem.object_start))
        self._modes = tf.Variable(to_pairs(problem.modes))
        self._shifts = tf.Variable(tf.zeros((len(problem.sites), 2)))
        self._root_background = tf.Variable(tf.fill((side, side), FIRST_ROOT_BACKGROUND))
        self._fits = tuple(rate > 0 for rate in problem.rates)
        self._variables = (self._object, self._modes, self._shifts, self._root_background)
        self._adam = [_Adam(value, rate) for value, rate in zip(self._variables, problem.rates, strict=True)]
        prior, shape = problem.prior, problem.sites.shape
        self._prior = None if prior is None else make_prior(prior, problem.loss, shape)
        self._graphs = {
            moves: tf.function(self._step_of(moves), reduce_retracing=True, autograph=False) for moves in (False, True)
        }
        self._validate = tf.function(partial(self._value, positions_move=True), reduce_retracing=True, autograph=False)

    def step(self, rows: NDArray[np.int64], *, factor: float, positions_move: bool) -> Tensor:
        """One step; returns the loss before it."""
        numbers = [self._adam[number].numbers(factor) for number in self._chosen(positions_move)]
        return self._graphs[positions_move](
            tf.constant(rows),
            tf.constant(self._problem.source.counts(rows)),
            tf.constant(numbers, tf.float32, (len(numbers), 4)),
        )

    def set_prior(self, fraction: float) -> None:
        """Let the prior act on the next steps as it does at this fraction of the fit."""
        if self._prior is not None:
            self._prior.set(self._object, fraction)

    def loss(self, rows: NDArray[np.int64]) -> float:
        """Loss of these patterns with the present parameters."""
        return float(self._validate(tf.constant(rows), tf.constant(self._problem.source.counts(rows))))

    def _chosen(self, positions_move: bool) -> list[int]:
        return [number for number, fits in enumerate(self._fits) if fits and (number != 2 or positions_move)]

    def _step_of(self, positions_move: bool) -> Callable[..., Tensor]:
        chosen = self._chosen(positions_move)
        variables = [self._variables[number] for number in chosen]

        def step(rows: Tensor, counts: Tensor, numbers: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                value = self._value(rows, counts, positions_move)
            gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, variables)]
            if self._prior is not None:
                gradients[0] = gradients[0] + self._prior.gradient(self._object)
            for place, (number, gradient) in enumerate(zip(chosen, gradients, strict=True)):
                self._adam[number].apply(gradient, numbers[place])
            return value

        return step

    def _value(self, rows: Tensor, counts: Tensor, positions_move: bool) -> Tensor:
        mean_counts = self._problem.mean_counts
        measured = normalised_intensity(counts, mean_counts)
        simulated = self._simulated(rows, positions_move)
        return self._loss(simulated, measured, eps=EPS_COUNTS / mean_counts, mask=self._mask)

    def _simulated(self, rows: Tensor, positions_move: bool) -> Tensor:
        """(n, N, N) intensities of the patterns at ``rows`` in units of the mean counts."""
        sites = self._placement[rows]
        if self._fits[2] and positions_move:
            sites = self._shifted(sites, tf.gather(self._shifts, rows))
        patches = extract_patches(_complex(self._object), sites)
        intensities = simulate(patches, _complex(self._modes * self._problem.peak))
        if self._fits[3]:
            intensities = intensities + tf.square(self._root_background) * self._problem.pixel
        return intensities

    def _shifted(self, sites: Placement, shifts: Tensor) -> Placement:
        """Sites moved by shifts, clamped to the canvas; fractions carry the gradient, corners are integers."""
        start = tf.cast(sites.corners_yx, tf.float32) + sites.fractions_yx
        moved = tf.minimum(tf.maximum(start + shifts, 0.0), self._last_start)
        corners = tf.floor(tf.stop_gradient(moved))
        return Placement(tf.cast(corners, tf.int64), moved - corners, sites.shape, sites.N)

    @property
    def _named(self) -> dict[str, tf.Variable]:
        names = ("object", "modes", "shifts_yx_px", "root_background")
        return dict(zip(names, self._variables, strict=True))

    def parameters(self) -> Arrays:
        """All parameters, complex ones as pairs."""
        return {name: value.numpy().copy() for name, value in self._named.items()}

    def restore(self, parameters: Arrays) -> None:
        """Set the parameters."""
        for name, value in self._named.items():
            value.assign(parameters[name])

    def moments(self) -> Moments:
        """State of Adam for the parameters that have taken a step."""
        states = {name: adam.state for name, adam in zip(self._named, self._adam, strict=True)}
        return {name: state for name, state in states.items() if state[2]}

    def restore_moments(self, moments: Moments) -> None:
        """Set the state of Adam."""
        for name, adam in zip(self._named, self._adam, strict=True):
            if name in moments:
                adam.restore(*moments[name])


def _complex(pairs: Tensor) -> Tensor:
    return tf.complex(pairs[..., 0], pairs[..., 1])
