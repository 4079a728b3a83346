"""All figures of an estimate beside its truth (specs/metrics.md, MET-7 to MET-16)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_data.metrics.alignment import Alignment, align
from ptycho_data.metrics.frc import FrcCurve, frc, is_flat
from ptycho_data.metrics.ramps import own_ramp, without_ramp

SSIM_WINDOW_PX = 7
"""Side of the uniform window of the SSIM (MET-12)."""
_NO_RANGE = 1e-6


@dataclass(frozen=True, eq=False)
class Comparison:
    """Figures of merit after alignment, over the scanned area; None means undefined.

    Attributes:
        complex_correlation: Mean-free, 0 to 1.
        amplitude_mae, amplitude_rmse: In units of the truth's amplitude.
        amplitude_ssim, phase_ssim: Structural similarity with the truth's own range; None, too, without scikit-image
            (the extra ``metrics``).
        amplitude_psnr_db, phase_psnr_db: Peak signal-to-noise ratio with the truth's own range.
        phase_mae_rad, phase_rmse_rad: Of ``angle(estimate conj truth)``.
        frc_half, frc_half_bit: Resolution as a fraction of Nyquist.
        n_pixels: Pixels scored.
        frc: The whole curve.
        alignment: The aligned images and what was removed.
    """

    complex_correlation: float | None
    amplitude_mae: float
    amplitude_rmse: float
    amplitude_ssim: float | None
    amplitude_psnr_db: float | None
    phase_mae_rad: float
    phase_rmse_rad: float
    phase_ssim: float | None
    phase_psnr_db: float | None
    frc_half: float | None
    frc_half_bit: float | None
    n_pixels: int
    frc: FrcCurve
    alignment: Alignment

    def to_dict(self) -> dict[str, Any]:
        """Figures and what was removed, as JSON values; undefined figures are None."""
        figures = {row.name: getattr(self, row.name) for row in fields(self) if row.name not in ("frc", "alignment")}
        removed = {
            "scale": self.alignment.scale,
            "phase_rad": self.alignment.phase_rad,
            "ramp_yx_rad_per_px": self.alignment.ramp_yx_rad_per_px.tolist(),
            "shift_yx_px": self.alignment.shift_yx_px.tolist(),
        }
        return {**figures, "removed": removed}


def compare(
    estimate: NDArray[Any],
    truth: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    truth_weight: NDArray[Any] | None = None,
    estimate_origin_yx_px: NDArray[np.float64] | tuple[float, float] = (0.0, 0.0),
    truth_origin_yx_px: NDArray[np.float64] | tuple[float, float] = (0.0, 0.0),
    remove_ramp: bool = True,
    remove_shift: bool = True,
    max_shift_px: float = 10.0,
) -> Comparison:
    """Score an estimate against a truth, or one half-scan reconstruction against the other.

    Args:
        estimate: (H, W) complex.
        truth: (H', W') complex.
        weight: (H, W) summed illumination of the estimate, or a boolean mask.
        truth_weight: (H', W') the same for the truth, if it is a reconstruction, too.
        estimate_origin_yx_px, truth_origin_yx_px: (2,) object coordinate of each array's pixel [0, 0].
        remove_ramp, remove_shift, max_shift_px: As of :func:`ptycho_data.metrics.align`.

    Raises:
        ContractError: bad arrays, or no scanned pixel in common.
    """
    offset = np.asarray(estimate_origin_yx_px, np.float64) - np.asarray(truth_origin_yx_px, np.float64)
    alignment = align(
        np.asarray(estimate),
        np.asarray(truth),
        weight=weight,
        truth_weight=truth_weight,
        offset_yx_px=offset,
        remove_ramp=remove_ramp,
        remove_shift=remove_shift,
        max_shift_px=max_shift_px,
    )
    ours, theirs, mask = alignment.estimate, alignment.truth, alignment.mask
    own = _nearest_pixels(np.asarray(truth), offset - alignment.shift_yx_px, mask.shape)
    if remove_ramp:
        # The data determine no ramp: figures must not depend on the truth's, and a blank image must not gain from it.
        centre = np.argwhere(mask).mean(axis=0)
        ramp = own_ramp(theirs, mask, centre)
        ours, theirs, own = (without_ramp(image, ramp, centre) for image in (ours, theirs, own))
    modulus, phase = np.abs(theirs), _phase(theirs, mask)
    contrast = np.ptp(np.abs(own)[mask]), np.ptp(_phase(own, mask)[mask])
    unit = float(modulus[mask].mean())
    amplitude_figures = _figures(np.abs(ours) - modulus, modulus, mask, data_range=float(contrast[0]), unit=unit)
    phase_figures = _figures(np.angle(ours * np.conj(theirs)), phase, mask, data_range=float(contrast[1]), unit=1.0)
    curve = frc(theirs, ours, mask=mask)
    return Comparison(
        complex_correlation=complex_correlation(ours[mask], theirs[mask]),
        amplitude_mae=amplitude_figures[0],
        amplitude_rmse=amplitude_figures[1],
        amplitude_ssim=amplitude_figures[2],
        amplitude_psnr_db=amplitude_figures[3],
        phase_mae_rad=phase_figures[0],
        phase_rmse_rad=phase_figures[1],
        phase_ssim=phase_figures[2],
        phase_psnr_db=phase_figures[3],
        frc_half=curve.resolution_half,
        frc_half_bit=curve.resolution_half_bit,
        n_pixels=int(mask.sum()),
        frc=curve,
        alignment=alignment,
    )


def complex_correlation(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """``|<a - mean a, b - mean b>| / (||a - mean a|| ||b - mean b||)``; None if either is uniform."""
    if is_flat(first) or is_flat(second):
        return None
    a, b = first - first.mean(), second - second.mean()
    return float(min(1.0, abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))))


def _phase(image: NDArray[np.complex128], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Phase relative to that of the mean (MET-11)."""
    mean = image[mask].mean()
    return np.angle(image * np.conj(mean)) if mean != 0 else np.angle(image)


def _nearest_pixels(truth: NDArray[Any], start_yx: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[Any]:
    """Truth pixels nearest to the estimate's: their range does not depend on interpolation."""
    rows, columns = (
        np.clip(np.rint(start_yx[axis] + np.arange(shape[axis])).astype(int), 0, truth.shape[axis] - 1)
        for axis in (0, 1)
    )
    return truth[np.ix_(rows, columns)]


def _figures(
    error: NDArray[np.float64], truth: NDArray[np.float64], mask: NDArray[np.bool_], *, data_range: float, unit: float
) -> tuple[float, float, float | None, float | None]:
    """MAE, RMSE, SSIM and PSNR of a real image that differs from the truth by ``error``."""
    wrong = error[mask]
    mae, rmse = float(np.abs(wrong).mean()), float(np.sqrt(np.mean(wrong**2)))
    if data_range <= _NO_RANGE * unit:
        return mae, rmse, None, None
    psnr = float(20 * np.log10(data_range / rmse)) if rmse > 0 else None
    return mae, rmse, _ssim(truth + error, truth, mask, data_range), psnr


def _ssim(
    image: NDArray[np.float64], truth: NDArray[np.float64], mask: NDArray[np.bool_], data_range: float
) -> float | None:
    """Mean structural similarity [SSIM] over the pixels whose whole window lies in the mask; None without the extra."""
    try:
        from skimage.metrics import structural_similarity  # slow to import
    except ImportError:
        return None
    whole = ndimage.binary_erosion(mask, np.ones((SSIM_WINDOW_PX, SSIM_WINDOW_PX), bool))
    if not whole.any():
        return None
    pair = (np.where(mask, picture, 0.0) for picture in (image, truth))
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        *pair, win_size=SSIM_WINDOW_PX, data_range=data_range, full=True
    )
    return float(similarity[whole].mean())
