"""Joint descent on object, probe modes, positions and background (specs/physics.md, PHY-27 to PHY-32)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_data.batches.gathering import PatternSource
from ptycho_data.fitting.checkpoints import DescentCheckpoints
from ptycho_data.fitting.loop import Arrays, Course, JointFit, Moments, descent_facts, run_course
from ptycho_data.fitting.probes import orthogonal_modes
from ptycho_data.stages import Progress

from ptycho_tf.devices import on_device
from ptycho_tf.framework import tf
from ptycho_tf.losses import LOSSES
from ptycho_tf.model import good_pixels
from ptycho_tf.physics import Placement, Tensor, extract_patches, simulate, to_corner
from ptycho_tf.tensor_files import TENSOR_FILES

__all__ = ["TENSOR_FILES", "JointFit", "Progress", "joint_descent"]

_BETAS = (0.9, 0.99)
_SMALLEST_ROOT = 1e-8


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
    validation: NDArray[np.int64] | None = None,
    patience: int | None = None,
    checkpoints: DescentCheckpoints | None = None,
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
        validation: Patterns that are not fitted, and whose loss picks the epoch that is handed out.
        patience: Epochs without a lower validation loss before the descent stops; never where not given.
        checkpoints: Where the state is kept between epochs, and what to go on from; where there is an
            ``object_start``, they are to be told what made it.
        progress: Called as ``progress(stage, steps done, steps in all)``.

    Raises:
        WorkFailedError: the fit diverged, or a checkpoint could not be written.
        ContractError: a checkpoint of another run, or a broken one.
    """
    rates = (object_learning_rate, probe_learning_rate, position_learning_rate, background_learning_rate)
    if checkpoints is not None:
        checkpoints.belong_to(
            **descent_facts(
                source,
                indices=indices,
                validation=validation,
                sites=(np.asarray(placement.corners_yx), np.asarray(placement.fractions_yx)),
                probe=probe,
                canvas=list(placement.shape),
                mean_counts=mean_counts,
                epochs=epochs,
                batch_size=batch_size,
                rates=list(rates),
                loss=loss,
                seed=seed,
                max_seconds=max_seconds,
                patience=patience,
            )
        )
    with on_device(device):
        fit = _Fit(source, placement, probe, object_start, rates, loss, mean_counts)
        course = run_course(
            fit,
            indices=indices,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            max_seconds=max_seconds,
            validation=validation,
            patience=patience,
            checkpoints=checkpoints,
            progress=progress,
            stage=stage,
        )
        return fit.finished(course, indices)


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
            var=self._variable.handle,
            m=self._moments[0].handle,
            v=self._moments[1].handle,
            beta1_power=first,
            beta2_power=second,
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            epsilon=eps,
            grad=gradient,
        )

    @property
    def state(self) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
        """Both moments, and the number of steps."""
        first, second = (value.numpy().copy() for value in self._moments)
        return first, second, self._steps

    def restore(self, first: NDArray[np.float32], second: NDArray[np.float32], steps: int) -> None:
        """Take a state."""
        self._steps = steps
        for moment, value in zip(self._moments, (first, second), strict=True):
            moment.assign(value)


class _Fit:
    """Parameters of a descent, each in its own unit, the patterns that they simulate, and Adam's steps."""

    def __init__(
        self,
        source: PatternSource,
        placement: Placement,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None,
        rates: tuple[float, ...],
        loss: str,
        mean_counts: float,
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
        self._variables = (self.object, self.modes, self.shifts, self.root_background)
        self._adam = [_Adam(value, rate) for value, rate in zip(self._variables, rates, strict=True)]
        self._pixel = 1.0 / side**2
        self._source, self._placement, self._mask = source, placement, good_pixels(source.bad_pixels)
        self._loss, self._mean_counts = LOSSES[loss], mean_counts
        self._graphs = {
            moves: tf.function(self._step_of(moves), reduce_retracing=True, autograph=False) for moves in (False, True)
        }
        self._judge = tf.function(partial(self._value, positions_move=True), reduce_retracing=True, autograph=False)

    def step(self, rows: NDArray[np.int64], *, factor: float, positions_move: bool) -> Tensor:
        """One step of the descent; returns the loss before it."""
        numbers = [self._adam[number].numbers(factor) for number in self._chosen(positions_move)]
        return self._graphs[positions_move](
            tf.constant(rows),
            tf.constant(self._source.counts(rows)),
            tf.constant(numbers, tf.float32, (len(numbers), 4)),
        )

    def loss(self, rows: NDArray[np.int64]) -> float:
        """Loss of these patterns as they are simulated now."""
        return float(self._judge(tf.constant(rows), tf.constant(self._source.counts(rows))))

    def _chosen(self, positions_move: bool) -> list[int]:
        return [number for number, fits in enumerate(self._fits) if fits and (number != 2 or positions_move)]

    def _step_of(self, positions_move: bool) -> Callable[..., Tensor]:
        chosen = self._chosen(positions_move)
        variables = [self._variables[number] for number in chosen]

        def step(rows: Tensor, counts: Tensor, numbers: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                value = self._value(rows, counts, positions_move)
            for place, (number, gradient) in enumerate(zip(chosen, tape.gradient(value, variables), strict=True)):
                self._adam[number].apply(tf.convert_to_tensor(gradient), numbers[place])
            return value

        return step

    def _value(self, rows: Tensor, counts: Tensor, positions_move: bool) -> Tensor:
        measured = to_corner(counts) / self._mean_counts
        simulated = self._simulated(rows, positions_move)
        return self._loss(simulated, measured, eps=EPS_COUNTS / self._mean_counts, mask=self._mask)

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

    @property
    def _named(self) -> dict[str, tf.Variable]:
        names = ("object", "modes", "shifts_yx_px", "root_background")
        return dict(zip(names, self._variables, strict=True))

    def parameters(self) -> Arrays:
        """All parameters, complex ones as pairs."""
        return {name: value.numpy().copy() for name, value in self._named.items()}

    def restore(self, parameters: Arrays) -> None:
        """Take these parameters."""
        for name, value in self._named.items():
            value.assign(parameters[name])

    def moments(self) -> Moments:
        """Adam's state of the parameters that have been stepped."""
        states = {name: adam.state for name, adam in zip(self._named, self._adam, strict=True)}
        return {name: state for name, state in states.items() if state[2]}

    def restore_moments(self, moments: Moments) -> None:
        """Take this state of Adam."""
        for name, adam in zip(self._named, self._adam, strict=True):
            if name in moments:
                adam.restore(*moments[name])

    def finished(self, course: Course, indices: NDArray[np.int64]) -> JointFit:
        """Orthogonal modes of unit energy, and the object that goes with them."""
        found = orthogonal_modes(_complex(self.modes * self._peak).numpy())
        scale = float(np.sqrt((np.abs(found) ** 2).sum(dtype=np.float64)))
        shifts = np.zeros(self.shifts.shape)
        if self._fits[2]:
            # As they were used: held on the canvas.
            sites = self._placement
            start = np.asarray(sites.corners_yx) + np.asarray(sites.fractions_yx, np.float64)
            room = np.asarray(sites.shape) - sites.N - 1 + 0.999
            moved = np.clip(start + self.shifts.numpy(), 0, room)
            shifts[indices] = (moved - start)[indices]
        background = np.square(self.root_background.numpy()) * np.float32(self._pixel * self._fits[3])
        return JointFit(
            object=_complex(self.object).numpy() * np.complex64(scale),
            probe=found / np.float32(scale),
            losses=course.losses,
            shifts_yx_px=shifts,
            background=background,
            course=course,
        )


def _pairs(values: NDArray[Any]) -> NDArray[np.float32]:
    """(..., 2) real of complex values."""
    return np.stack((values.real, values.imag), axis=-1).astype(np.float32)


def _complex(pairs: Tensor) -> Tensor:
    return tf.complex(pairs[..., 0], pairs[..., 1])
