"""Joint descent on object, probe modes, positions and background (specs/physics.md, PHY-27 to PHY-32)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_data.batches.gathering import PatternSource
from ptycho_data.fitting.checkpoints import DescentCheckpoints
from ptycho_data.fitting.loop import Arrays, Course, JointFit, Moments, descent_facts, run_course
from ptycho_data.fitting.probes import orthogonal_modes
from ptycho_data.stages import Progress
from torch import Tensor

from ptycho_torch.losses import LOSSES
from ptycho_torch.model import good_pixels
from ptycho_torch.physics import Placement, extract_patches, simulate, to_corner
from ptycho_torch.tensor_files import TENSOR_FILES

__all__ = ["TENSOR_FILES", "JointFit", "Progress", "joint_descent"]

_BETAS = (0.9, 0.99)


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
    device: torch.device | None = None,
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
    device = device or torch.device("cpu")
    rates = (object_learning_rate, probe_learning_rate, position_learning_rate, background_learning_rate)
    if checkpoints is not None:
        checkpoints.belong_to(
            **descent_facts(
                source,
                indices=indices,
                validation=validation,
                sites=(placement.corners_yx.cpu().numpy(), placement.fractions_yx.cpu().numpy()),
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
    fit = _Fit(source, placement.to(device), probe, object_start, rates, loss, mean_counts, device)
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
        device: torch.device,
    ) -> None:
        side = placement.N
        start = np.ones(placement.shape, np.complex64) if object_start is None else object_start
        # Copies: Adam works in place, and the caller's arrays stay as they are.
        self.object = torch.from_numpy(np.array(start, np.complex64)).to(device)
        unit = np.array(probe, np.complex128) / np.sqrt((np.abs(probe) ** 2).sum(dtype=np.float64))
        self._peak = float(np.abs(unit).max())
        self.modes = torch.from_numpy((unit / self._peak).astype(np.complex64)).to(device)
        self.shifts = torch.zeros((len(placement), 2), device=device)
        # The background is the square of this, so that it is never negative; at 0 it would have no gradient.
        self.root_background = torch.full((side, side), 1e-3, device=device)
        self._pixel = 1.0 / side**2
        self._source, self._placement, self._device = source, placement, device
        self._loss, self._mean_counts = LOSSES[loss], mean_counts
        mask = good_pixels(source.bad_pixels)
        self._mask = None if mask is None else mask.to(device)
        for value, rate in zip(self._named.values(), rates, strict=True):
            value.requires_grad_(rate > 0)
        self._rates = [rate for rate in rates if rate > 0]
        self._adam = torch.optim.Adam(
            [{"params": [value]} for value in self._named.values() if value.requires_grad], betas=_BETAS
        )

    @property
    def _named(self) -> dict[str, Tensor]:
        return {
            "object": self.object,
            "modes": self.modes,
            "shifts_yx_px": self.shifts,
            "root_background": self.root_background,
        }

    def step(self, rows: NDArray[np.int64], *, factor: float, positions_move: bool) -> Tensor:
        """One step of the descent; returns the loss before it."""
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        value = self._value(rows, positions_move)
        self._adam.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return value.detach()

    def loss(self, rows: NDArray[np.int64]) -> float:
        """Loss of these patterns as they are simulated now."""
        with torch.no_grad():
            return float(self._value(rows, True))

    def _value(self, rows: NDArray[np.int64], positions_move: bool) -> Tensor:
        measured = to_corner(torch.from_numpy(self._source.counts(rows)).to(self._device)) / self._mean_counts
        simulated = self._simulated(torch.from_numpy(rows).to(self._device), positions_move)
        return self._loss(simulated, measured, eps=EPS_COUNTS / self._mean_counts, mask=self._mask)

    def _simulated(self, rows: Tensor, positions_move: bool) -> Tensor:
        """(n, N, N) intensities of the patterns at ``rows`` in units of the mean counts."""
        sites = self._placement[rows]
        if self.shifts.requires_grad and positions_move:
            sites = self._shifted(sites, self.shifts[rows])
        intensities = simulate(extract_patches(self.object, sites), self.modes * self._peak)
        if self.root_background.requires_grad:
            intensities = intensities + self.root_background.square() * self._pixel
        return intensities

    def _shifted(self, sites: Placement, shifts: Tensor) -> Placement:
        """Sites moved by shifts, held on the canvas; fractions carry the gradient, corners are whole numbers."""
        room = torch.tensor(sites.shape, device=shifts.device) - sites.N - 1
        start = sites.corners_yx + sites.fractions_yx
        moved = torch.minimum(torch.clamp(start + shifts, min=0.0), room.to(shifts.dtype) + 0.999)
        corners = moved.detach().floor()
        return Placement(corners.long(), moved - corners, sites.shape, sites.N)

    def parameters(self) -> Arrays:
        """All parameters, complex ones as pairs."""
        return {name: _array(value) for name, value in self._named.items()}

    def restore(self, parameters: Arrays) -> None:
        """Take these parameters."""
        with torch.no_grad():
            for name, value in self._named.items():
                value.copy_(_tensor(parameters[name], value))

    def moments(self) -> Moments:
        """Adam's state of the parameters that have been stepped."""
        kept = {name: self._adam.state[value] for name, value in self._named.items() if self._adam.state.get(value)}
        return {
            name: (_array(state["exp_avg"]), _array(state["exp_avg_sq"]), int(state["step"]))
            for name, state in kept.items()
        }

    def restore_moments(self, moments: Moments) -> None:
        """Take this state of Adam."""
        for name, (first, second, steps) in moments.items():
            value = self._named[name]
            state: dict[str, Any] = {"step": torch.tensor(float(steps))}
            state |= {"exp_avg": _tensor(first, value), "exp_avg_sq": _tensor(second, value)}
            self._adam.state[value] = state

    def finished(self, course: Course, indices: NDArray[np.int64]) -> JointFit:
        """Orthogonal modes of unit energy, and the object that goes with them."""
        found = orthogonal_modes((self.modes.detach() * self._peak).cpu().numpy())
        scale = float(np.sqrt((np.abs(found) ** 2).sum(dtype=np.float64)))
        shifts = np.zeros((len(self.shifts), 2))
        if self.shifts.requires_grad:
            # As they were used: held on the canvas.
            sites = self._placement
            start = (sites.corners_yx + sites.fractions_yx.double()).cpu().numpy()
            room = np.asarray(sites.shape) - sites.N - 1 + 0.999
            moved = np.clip(start + self.shifts.detach().cpu().numpy(), 0, room)
            shifts[indices] = (moved - start)[indices]
        background = self.root_background.detach().square() * self._pixel
        if not self.root_background.requires_grad:
            background = torch.zeros_like(background)
        return JointFit(
            object=self.object.detach().cpu().numpy() * np.complex64(scale),
            probe=found / np.float32(scale),
            losses=course.losses,
            shifts_yx_px=shifts,
            background=background.cpu().numpy(),
            course=course,
        )


def _array(value: Tensor) -> NDArray[np.float32]:
    """A copy in NumPy; complex values as pairs."""
    value = value.detach()
    array: NDArray[np.float32] = (torch.view_as_real(value) if value.is_complex() else value).cpu().numpy().copy()
    return array


def _tensor(array: NDArray[np.float32], like: Tensor) -> Tensor:
    """A tensor of its own, of dtype and device of another."""
    tensor = torch.from_numpy(np.array(array)).to(like.device)
    return torch.view_as_complex(tensor) if like.is_complex() else tensor
