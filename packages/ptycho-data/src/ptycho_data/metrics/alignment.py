"""Remove what no experiment determines: scale, global phase, phase ramp, shift (specs/metrics.md, MET-1 to MET-6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from scipy import fft

from ptycho_data.metrics.area import no_area, scanned_area
from ptycho_data.metrics.frc import is_flat
from ptycho_data.metrics.interpolation import SplineImage
from ptycho_data.metrics.ramps import Vector, own_ramp, peak, ramp_of_peak, without_ramp

Complex = NDArray[np.complex128]
_ITERATIONS = 30
_CONVERGED = 1e-9
_REFINED_PX = 1.5  # how far refinement may move a start value before it meets the truth's border
_ROUNDING = 1e-13
"""Gains below this are rounding: the score is at most 1, in float64."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """An estimate aligned with a truth, on the estimate's pixels.

    Attributes:
        estimate: (H, W) complex128, with scale, global phase and ramp removed.
        truth: (H, W) complex128, resampled onto the estimate's pixels.
        mask: (H, W) bool, scanned pixels inside the truth.
        scale: Real factor that was applied to the estimate.
        phase_rad: Global phase that was removed from the estimate, at the area's centroid.
        ramp_yx_rad_per_px: (2,) ramp that was removed from the estimate.
        shift_yx_px: (2,) shift of the estimate relative to the truth.
    """

    estimate: Complex
    truth: Complex
    mask: NDArray[np.bool_]
    scale: float
    phase_rad: float
    ramp_yx_rad_per_px: Vector
    shift_yx_px: Vector


def align(
    estimate: NDArray[Any],
    truth: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    truth_weight: NDArray[Any] | None = None,
    offset_yx_px: tuple[float, float] | Vector = (0.0, 0.0),
    remove_ramp: bool = True,
    remove_shift: bool = True,
    max_shift_px: float = 10.0,
) -> Alignment:
    """Align an estimate with a truth inside the scanned area.

    Args:
        estimate: (H, W) complex.
        truth: (H', W') complex.
        weight: (H, W) summed illumination or boolean mask of the estimate; all pixels if None.
        truth_weight: (H', W') the same for the truth, if it is a reconstruction, too.
        offset_yx_px: Truth pixel at which the estimate's pixel [0, 0] lies.
        remove_ramp: Remove a linear phase ramp.
        remove_shift: Remove a shift.
        max_shift_px: Largest shift tried, along each axis.

    Returns:
        The aligned pair and what was removed.

    Raises:
        ContractError: bad arrays, or no scanned pixel in common.
    """
    _check(estimate, truth, weight, truth_weight)
    area = np.ones(estimate.shape, bool) if weight is None else scanned_area(weight)
    offset = np.asarray(offset_yx_px, np.float64)
    search = _Search(estimate, truth, area, truth_weight, offset)
    ramp, shift = np.zeros(2), np.zeros(2)
    uniform_ramp = search.ramp_if_uniform(remove_ramp)
    if uniform_ramp is not None:
        ramp = uniform_ramp
    elif remove_ramp or remove_shift:
        ramp, shift = search.start(remove_ramp, remove_shift, max_shift_px)
        ramp, shift = search.refine(ramp, shift, remove_ramp, remove_shift, max_shift_px)
    return search.outcome(ramp, shift)


class _Search:
    """The two images of one alignment, and the steps of its search (MET-4)."""

    def __init__(
        self,
        estimate: NDArray[Any],
        truth: NDArray[Any],
        area: NDArray[np.bool_],
        truth_weight: NDArray[Any] | None,
        offset: Vector,
    ) -> None:
        self.offset, self.shape = offset, estimate.shape
        self.truth_area = None if truth_weight is None else scanned_area(truth_weight)
        # The truth's own ramp is removed from both images while they are compared: a steep ramp interpolates badly.
        seen = np.ones(truth.shape, bool) if self.truth_area is None else self.truth_area
        self.tilt = own_ramp(truth, seen, np.zeros(2))
        self.truth = SplineImage(without_ramp(truth, self.tilt, np.zeros(2)))
        self.area = area & self._in_truth(offset)
        if not self.area.any():
            raise no_area("estimate", "none")
        self.estimate = without_ramp(np.where(area, estimate, 0), self.tilt, -offset)
        if not np.isfinite(self.estimate).all():
            raise ContractError(
                Problem(
                    "estimate",
                    "array.not_finite",
                    "finite values in the scanned area",
                    "NaN or infinite values",
                    "correct the estimate",
                )
            )
        self.full_area, self.scored = area, self.area
        rows, columns = np.nonzero(self.area)
        self.centroid = np.array([rows.mean(), columns.mean()])
        self.y = np.arange(self.shape[0])[:, None] - self.centroid[0]
        self.x = np.arange(self.shape[1])[None, :] - self.centroid[1]
        self.box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))

    def _in_truth(self, start: Vector) -> NDArray[np.bool_]:
        inside = self.truth.inside(start, self.shape)
        if self.truth_area is None:
            return inside
        rows, columns = (
            np.clip(np.rint(start[axis] + np.arange(self.shape[axis])).astype(int), 0, self.truth.shape[axis] - 1)
            for axis in (0, 1)
        )
        return inside & self.truth_area[np.ix_(rows, columns)]

    def without(self, ramp: Vector) -> Complex:
        """Estimate without a ramp, 0 outside the area."""
        return without_ramp(self.estimate, ramp, self.centroid) if ramp.any() else self.estimate

    def ramp_if_uniform(self, with_ramp: bool) -> Vector | None:
        """Ramp to remove from an estimate that has no contrast but its ramp; None for one that has."""
        if not with_ramp:
            return np.zeros(2) if is_flat(self.estimate[self.area]) else None
        own = own_ramp(self.estimate, self.area, self.centroid)
        if not is_flat(self.without(own)[self.area]):
            return None
        truth = self.truth.read(self.offset, self.shape)[0]
        return own - own_ramp(truth, self.area, self.centroid)

    def score(self, ramp: Vector, shift: Vector) -> float:
        """``|<truth, estimate>| / (|truth| |estimate|)``, over pixels that are the same for every shift tried."""
        mask = self.scored
        shifted, moved = self.truth.read(self.offset - shift, self.shape)[0][mask], self.without(ramp)[mask]
        norms = np.linalg.norm(shifted) * np.linalg.norm(moved)
        return float(abs(np.vdot(shifted, moved)) / norms) if norms > 0 else 0.0

    def start(self, with_ramp: bool, with_shift: bool, max_shift_px: float) -> tuple[Vector, Vector]:
        """Best of the start values of MET-4."""
        still = np.zeros(2)
        ramps = [still]
        if with_ramp:
            ramps += [self._ramp_of_product(still, still), self._ramp_of_spectra()]
        pairs = [(ramp, still) for ramp in ramps]
        if with_shift:
            for ramp in ramps:
                shift = self._shift_of(ramp, max_shift_px)
                pairs.append((ramp, shift))
                if with_ramp:
                    pairs.append((self._ramp_of_product(ramp, shift), shift))
        return max(pairs, key=lambda pair: self.score(*pair))

    def _ramp_of_product(self, ramp: Vector, shift: Vector) -> Vector:
        shifted = self.truth.read(self.offset - shift, self.shape)[0]
        product = np.where(self.area, np.conj(shifted) * self.without(ramp), 0)[self.box]
        return ramp + ramp_of_peak(product)

    def _ramp_of_spectra(self) -> Vector:
        window = _hann(self.estimate[self.box].shape) * self.area[self.box]
        size = [fft.next_fast_len(2 * length) for length in window.shape]
        truth = self.truth.read(self.offset, self.shape)[0]
        ours, theirs = (np.abs(fft.fft2(window * image[self.box], size)) for image in (self.estimate, truth))
        correlation = fft.ifft2(fft.fft2(ours) * np.conj(fft.fft2(theirs))).real
        ramp: Vector = 2 * np.pi * peak(correlation) / np.asarray(size)
        return ramp

    def _shift_of(self, ramp: Vector, max_shift_px: float) -> Vector:
        mask = self.area[self.box]
        truth = self.truth.read(self.offset, self.shape)[0][self.box]
        moved = self.without(ramp)[self.box]
        size = [fft.next_fast_len(2 * length) for length in mask.shape]
        spectra = (fft.fft2(np.where(mask, image - image[mask].mean(), 0), size) for image in (moved, truth))
        ours, theirs = spectra
        correlation = np.abs(fft.ifft2(ours * np.conj(theirs)))
        far = (np.abs(fft.fftfreq(length, 1 / length)) > max_shift_px for length in size)
        far_y, far_x = far
        correlation[far_y] = 0
        correlation[:, far_x] = 0
        return np.clip(peak(correlation), -max_shift_px, max_shift_px)

    def refine(
        self, ramp: Vector, shift: Vector, with_ramp: bool, with_shift: bool, max_shift_px: float
    ) -> tuple[Vector, Vector]:
        """Gauss-Newton on factor, ramp and shift; a step that lowers the score is halved, then given up."""
        near = self.full_area.copy()
        for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            near &= self._in_truth(self.offset - shift + np.array(corner) * (_REFINED_PX if with_shift else 0.0))
        self.scored = near if near.any() else self.area
        best = self.score(ramp, shift)
        for _ in range(_ITERATIONS):
            step_ramp, step_shift = self._step(ramp, shift, with_ramp, with_shift)
            for _ in range(4):
                new_ramp, new_shift = ramp + step_ramp, np.clip(shift + step_shift, -max_shift_px, max_shift_px)
                new = self.score(new_ramp, new_shift)
                if new >= best - _ROUNDING:
                    break
                step_ramp, step_shift = step_ramp / 2, step_shift / 2
            else:
                break
            moved = max(np.abs(new_ramp - ramp).max() * max(self.shape), np.abs(new_shift - shift).max())
            ramp, shift, best = new_ramp, new_shift, new
            if moved < _CONVERGED:
                break
        return ramp, shift

    def _step(self, ramp: Vector, shift: Vector, with_ramp: bool, with_shift: bool) -> tuple[Vector, Vector]:
        """Least-squares step: ``e ~ c (t + i dk.r t - ds.grad t)`` with complex c, real dk and ds."""
        mask = self.scored
        value, along_y, along_x = (part[mask] for part in self.truth.read(self.offset - shift, self.shape))
        moved = self.without(ramp)[mask]
        energy = float(np.vdot(value, value).real)
        factor = np.vdot(value, moved) / energy if energy > 0 else 0.0
        if factor == 0:
            return np.zeros(2), np.zeros(2)
        columns = [value, 1j * value]
        if with_ramp:
            columns += [1j * value * np.broadcast_to(axis, self.shape)[mask] for axis in (self.y, self.x)]
        if with_shift:
            columns += [-along_y, -along_x]
        residual = moved / factor - value
        matrix = np.array([[np.vdot(a, b).real for b in columns] for a in columns])
        right = np.array([np.vdot(a, residual).real for a in columns])
        norms = np.sqrt(np.diag(matrix))
        norms[norms == 0] = 1.0
        solved = list(np.linalg.lstsq(matrix / np.outer(norms, norms), right / norms, rcond=1e-12)[0] / norms)[2:]
        step_ramp = np.array([solved.pop(0), solved.pop(0)]) if with_ramp else np.zeros(2)
        return step_ramp, np.array(solved) if with_shift else np.zeros(2)

    def outcome(self, ramp: Vector, shift: Vector) -> Alignment:
        mask = self.full_area & self._in_truth(self.offset - shift)
        if not mask.any():
            raise no_area("estimate", "none")
        truth = self.truth.read(self.offset - shift, self.shape)[0]
        moved = self.without(ramp)
        product = np.vdot(truth[mask], moved[mask])
        phase = float(np.angle(product)) if product != 0 else 0.0
        modulus = np.abs(moved[mask])
        energy = float(modulus @ modulus)
        scale = float(modulus @ np.abs(truth[mask])) / energy if energy > 0 else 1.0
        origin = shift - self.offset  # where the truth's ramp has phase 0
        return Alignment(
            estimate=without_ramp(moved * (scale * np.exp(-1j * phase)), -self.tilt, origin),
            truth=without_ramp(truth, -self.tilt, origin),
            mask=mask,
            scale=scale,
            phase_rad=float(np.angle(np.exp(1j * (phase + self.tilt @ shift)))),
            ramp_yx_rad_per_px=ramp,
            shift_yx_px=shift,
        )


def _hann(shape: tuple[int, ...]) -> NDArray[np.float64]:
    y, x = (np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in shape)
    return np.outer(y, x)


def _check(
    estimate: NDArray[Any], truth: NDArray[Any], weight: NDArray[Any] | None, truth_weight: NDArray[Any] | None
) -> None:
    problems = []
    for name, image in (("estimate", estimate), ("truth", truth)):
        if image.ndim != 2 or image.dtype.kind != "c" or min(image.shape) < 2:
            problems.append(
                Problem(name, "array.shape", "(H, W) complex", f"{image.shape} {image.dtype}", "give a complex image")
            )
    for name, given, image in (("weight", weight, estimate), ("truth_weight", truth_weight, truth)):
        if given is not None and given.shape != image.shape:
            problems.append(
                Problem(
                    name, "array.shape", f"shape {image.shape}", f"shape {given.shape}", "give one weight per pixel"
                )
            )
    if not problems and not np.isfinite(truth).all():
        problems.append(
            Problem("truth", "array.not_finite", "finite values", "NaN or infinite values", "correct the truth")
        )
    if problems:
        raise ContractError(problems)
