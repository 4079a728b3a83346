"""Joint descent on object, probe modes, positions and background (specs/physics.md, PHY-27)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.problems import Problem, WorkFailedError
from ptycho_data.batches import PatternSource
from ptycho_data.probes import orthogonal_modes

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.losses import LOSSES
from ptycho_tf.model import good_pixels
from ptycho_tf.physics import Placement, Tensor, extract_patches, simulate, to_corner

Progress = Callable[[str, int, int], None]

_BETAS = (0.9, 0.99)
_SMALLEST_ROOT = 1e-8
_LAST_STEP = 0.02
"""Learning rates follow a half cosine from 1 to this share of their start."""
_POSITIONS_WAIT = 0.1
"""Share of the descent after which positions begin to move: before, there is no object to align them to."""


@dataclass(frozen=True, eq=False)
class JointFit:
    """Outcome of a descent.

    Attributes:
        object: (H, W) complex64, for a probe of unit energy.
        probe: (K, N, N) complex64 of unit energy, orthogonal modes, strongest first.
        losses: Mean training loss of each epoch that was finished.
        shifts_yx_px: (M, 2) float64, what to add to each position to get where its pattern saw this object; 0 for
            patterns that were not fitted, and where positions were kept.
        background: (N, N) float32 in units of the mean counts, zero frequency at [0, 0]; 0 where none was fitted.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    losses: tuple[float, ...]
    shifts_yx_px: NDArray[np.float64]
    background: NDArray[np.float32]


def joint_descent(
    source: PatternSource,
    placement: Placement,
    probe: NDArray[np.complex64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    epochs: int,
    batch_size: int,
    object_learning_rate: float,
    probe_learning_rate: float,
    loss: str,
    seed: int,
    position_learning_rate: float = 0.0,
    background_learning_rate: float = 0.0,
    object_start: NDArray[np.complex64] | None = None,
    max_seconds: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    stage: str = "descent",
) -> JointFit:
    """Fit object and probe, and positions and background where asked, to the counts of patterns of one scan.

    Adam on the loss of minibatches; each parameter has its own unit, so that one rate suits every scan.

    Args:
        source: Scan or store; read a minibatch at a time.
        placement: Sites of all of the source's patterns on the canvas.
        probe: (K, N, N) start, any scale.
        indices: Patterns to fit.
        mean_counts: Their mean photons a pattern.
        epochs, batch_size, loss, seed: Passes, patterns a step, name of the loss, seed of the order.
        object_learning_rate: Step in units of the object's amplitude.
        probe_learning_rate: Step in units of the probe's largest amplitude; 0 keeps the probe.
        position_learning_rate: Step in pixels; 0 keeps the positions. They stay on the canvas.
        background_learning_rate: Step in units of the root mean intensity of a pixel; 0 fits none.
        object_start: (H, W) complex for a probe of unit energy; empty space where not given.
        max_seconds: The schedule ends after this wall time, if not earlier.
        progress: Called as ``progress(stage, steps done, steps in all)``.

    Raises:
        WorkFailedError: the fit diverged.
    """
    rates = (object_learning_rate, probe_learning_rate, position_learning_rate, background_learning_rate)
    with on_device(device):
        fit = _Fit(placement, probe, object_start, rates, loss, mean_counts, good_pixels(source.bad_pixels))
        batches = math.ceil(len(indices) / batch_size)
        steps, done = epochs * batches, 0
        losses: list[float] = []
        began = time.monotonic()
        for epoch in range(epochs):
            # The order of an epoch depends on seed and epoch alone, not on the epochs before.
            order = np.random.default_rng((seed, epoch)).permutation(indices)
            epoch_losses: list[Tensor] = []
            for batch in np.array_split(order, batches):
                elapsed = 0.0 if max_seconds is None else (time.monotonic() - began) / max_seconds
                if elapsed >= 1 and losses:
                    return _checked(fit, stage).finished(losses, indices)
                share = max(done / steps, min(elapsed, 1.0))
                factor = _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * share))
                rows = np.sort(batch)
                epoch_losses.append(
                    fit.step(rows, source.counts(rows), factor, positions_move=share >= _POSITIONS_WAIT)
                )
                done += 1
                if progress is not None:
                    progress(stage, done, steps)
            losses.append(float(np.mean([float(value) for value in epoch_losses])))
            if not math.isfinite(losses[-1]):
                raise _diverged(stage, f"a loss of {losses[-1]} in epoch {len(losses)}")
        return _checked(fit, stage).finished(losses, indices)


def _checked(fit: _Fit, stage: str) -> _Fit:
    """The fit, unless its last steps, which no loss has seen yet, ruined it."""
    if not all(np.isfinite(value.numpy()).all() for value in fit.parameters):
        raise _diverged(stage, "NaN or infinite values in what was fitted")
    return fit


def _diverged(stage: str, found: str) -> WorkFailedError:
    return WorkFailedError(
        Problem(stage, "descent.diverged", "a finite fit", found,
                "lower the learning rates or check the data with inspect")
    )  # fmt: skip


class _Adam:
    """Adam's state for one real variable; ``eps`` is added to the root of the corrected second moment."""

    def __init__(self, variable: tf.Variable, rate: float) -> None:
        self._variable, self._rate, self._steps = variable, rate, 0
        self._moments = [tf.Variable(tf.zeros_like(variable)) for _ in range(2)]

    def numbers(self, factor: float) -> list[float]:
        """Numbers of the next step that change from step to step: beta powers, rate, eps."""
        self._steps += 1
        first, second = (beta**self._steps for beta in _BETAS)
        return [first, second, self._rate * factor, _SMALLEST_ROOT * math.sqrt(1 - second)]

    def apply(self, gradient: Tensor, numbers: Tensor) -> None:
        """One step, in place; the operation is fused."""
        first, second, rate, eps = tf.unstack(numbers, num=4)
        tf.raw_ops.ResourceApplyAdam(
            var=self._variable.handle, m=self._moments[0].handle, v=self._moments[1].handle, beta1_power=first,
            beta2_power=second, lr=rate, beta1=_BETAS[0], beta2=_BETAS[1], epsilon=eps, grad=gradient,
        )  # fmt: skip


class _Fit:
    """Parameters of a descent, each in its own unit, and the patterns that they simulate."""

    def __init__(
        self,
        placement: Placement,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None,
        rates: tuple[float, ...],
        loss: str,
        mean_counts: float,
        mask: Tensor | None,
    ) -> None:
        side = placement.N
        start = np.ones(placement.shape, np.complex64) if object_start is None else object_start
        unit = np.array(probe, np.complex128) / np.sqrt((np.abs(probe) ** 2).sum(dtype=np.float64))
        self._peak = float(np.abs(unit).max())
        # Complex parameters as pairs of real numbers, each with moments of its own.
        self.object = tf.Variable(_pairs(start))
        self.modes = tf.Variable(_pairs(unit / self._peak))
        self.shifts = tf.Variable(tf.zeros((len(placement), 2)))
        # The background is the square of this, so that it is never negative; at 0 it would have no gradient.
        self.root_background = tf.Variable(tf.fill((side, side), 1e-3))
        self._fits = tuple(rate > 0 for rate in rates)
        self._adam = [_Adam(value, rate) for value, rate in zip(self.parameters, rates, strict=True)]
        self._pixel = 1.0 / side**2
        self._placement, self._loss, self._mean_counts, self._mask = placement, LOSSES[loss], mean_counts, mask
        self._graphs = {
            moves: tf.function(self._step_of(moves), reduce_retracing=True, autograph=False) for moves in (False, True)
        }

    @property
    def parameters(self) -> tuple[tf.Variable, ...]:
        return self.object, self.modes, self.shifts, self.root_background

    def step(
        self, rows: NDArray[np.int64], counts: NDArray[np.float32], factor: float, *, positions_move: bool
    ) -> Tensor:
        """One step of the descent; returns the loss before it."""
        numbers = [self._adam[number].numbers(factor) for number in self._chosen(positions_move)]
        return self._graphs[positions_move](
            tf.constant(rows), tf.constant(counts), tf.constant(numbers, tf.float32, (len(numbers), 4))
        )

    def _chosen(self, positions_move: bool) -> list[int]:
        return [number for number, fits in enumerate(self._fits) if fits and (number != 2 or positions_move)]

    def _step_of(self, positions_move: bool) -> Callable[..., Tensor]:
        chosen = self._chosen(positions_move)
        variables = [self.parameters[number] for number in chosen]

        def step(rows: Tensor, counts: Tensor, numbers: Tensor) -> Tensor:
            measured = to_corner(counts) / self._mean_counts
            with tf.GradientTape() as tape:
                simulated = self._simulated(rows, positions_move)
                value = self._loss(simulated, measured, eps=EPS_COUNTS / self._mean_counts, mask=self._mask)
            for place, (number, gradient) in enumerate(zip(chosen, tape.gradient(value, variables), strict=True)):
                self._adam[number].apply(tf.convert_to_tensor(gradient), numbers[place])
            return value

        return step

    def _simulated(self, rows: Tensor, positions_move: bool) -> Tensor:
        """(n, N, N) intensities of the patterns at ``rows`` in units of the mean counts."""
        sites = self._placement[rows]
        if self._fits[2] and positions_move:
            sites = self._shifted(sites, tf.gather(self.shifts, rows))
        patches = extract_patches(_complex(self.object), sites)
        intensities = simulate(patches, _complex(self.modes * self._peak))
        if self._fits[3]:
            intensities = intensities + tf.square(self.root_background) * self._pixel
        return intensities

    def _shifted(self, sites: Placement, shifts: Tensor) -> Placement:
        """Sites moved by shifts, held on the canvas; fractions carry the gradient, corners are whole numbers."""
        room = np.array(sites.shape) - sites.N - 1 + 0.999
        start = tf.cast(sites.corners_yx, tf.float32) + sites.fractions_yx
        moved = tf.minimum(tf.maximum(start + shifts, 0.0), room.astype(np.float32))
        corners = tf.floor(tf.stop_gradient(moved))
        return Placement(tf.cast(corners, tf.int64), moved - corners, sites.shape, sites.N)

    def finished(self, losses: list[float], indices: NDArray[np.int64]) -> JointFit:
        """Orthogonal modes of unit energy, and the object that goes with them."""
        found = orthogonal_modes(_complex(self.modes * self._peak).numpy())
        scale = float(np.sqrt((np.abs(found) ** 2).sum(dtype=np.float64)))
        shifts = np.zeros(self.shifts.shape)
        if self._fits[2]:
            shifts[indices] = self.shifts.numpy()[indices]
        background = np.square(self.root_background.numpy()) * np.float32(self._pixel * self._fits[3])
        return JointFit(
            object=_complex(self.object).numpy() * np.complex64(scale),
            probe=found / np.float32(scale),
            losses=tuple(losses),
            shifts_yx_px=shifts,
            background=background,
        )


def _pairs(values: NDArray[Any]) -> NDArray[np.float32]:
    """(..., 2) real of complex values."""
    return np.stack((values.real, values.imag), axis=-1).astype(np.float32)


def _complex(pairs: Tensor) -> Tensor:
    return tf.complex(pairs[..., 0], pairs[..., 1])
