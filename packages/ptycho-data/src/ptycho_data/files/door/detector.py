"""From frames of a detector to square patterns: selection, dark, mask, centre, crop, bin (specs/files.md, DOOR-9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from scipy import ndimage

from ptycho_data.files.interpret.zero_frequency import SAMPLE, centred
from ptycho_data.free_memory import require_memory

_MOST = 0.5
"""Fraction of the patterns in which a pixel must be marked by the detector to be bad."""
_DEAD_COUNTS = 20.0
"""A pixel without a count is dead where its neighbours have this many in all patterns together."""
_HOT_RATIO = 20.0
"""A hot pixel's mean, relative to the median of its 5 x 5 neighbourhood."""
_LARGEST_PAD = 8
_BLOCK_BYTES = 1 << 25


@dataclass(frozen=True, eq=False, kw_only=True)
class Corrected:
    """Square patterns, and what was done to them.

    Attributes:
        patterns: (M, N, N).
        bad_pixels: (N, N) or None.
        zero: Record of the zero frequency, as in ``Scan.metadata``.
        window: Side in stored detector pixels of what is left.
        binned: Detector pixels per side of a pixel.
        record: JSON values of what was done.
    """

    patterns: NDArray[Any]
    bad_pixels: NDArray[np.bool_] | None
    zero: dict[str, Any]
    window: int
    binned: int
    record: dict[str, Any]


def corrected(
    frames: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    declared: Mapping[str, Any],
    *,
    zero_frequency: str | tuple[float, float] | None,
    dark: NDArray[Any] | None = None,
    flat: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
    is_amplitude: Any = None,
    where: str,
) -> Corrected:
    """Apply the table ``[detector]`` of a mapping.

    Args:
        frames: (M, y, x) as stored.
        bad: (y, x) or None, on the same pixels.
        declared: ``mask`` ("auto"), ``threshold``, ``centre`` ("auto" or [y, x]), ``crop``, ``bin``, ``pad``.
        zero_frequency: As in ``centred``; not used where a centre is declared.
        mask: (y, x), further bad pixels, or None.
        dark: (y, x), subtracted; what becomes negative becomes 0.
        flat: (y, x), by which values are divided, relative to its mean; where it is not positive pixels are bad.
        is_amplitude: Called with patterns and bad pixels before float values are corrected or binned: whether
            they are amplitudes, whose squares are corrected and summed.
        where: For messages.

    Raises:
        ContractError: an image of another shape or without any response, or a window that cannot be.
    """
    height, width = frames.shape[1:]
    record: dict[str, Any] = {}
    for name, image in (("mask", bad), ("mask", mask), ("dark", dark), ("flat", flat)):
        if image is not None and image.shape != (height, width):
            raise ContractError(
                Problem(
                    f"{where}: {name}",
                    "door.image_shape",
                    f"an image of the detector's shape {(height, width)}",
                    f"shape {image.shape}",
                    f"give another `{name}`",
                )
            )
    if mask is not None:
        bad = mask if bad is None else bad | mask
    if declared.get("mask") == "auto":
        found, kinds = automatic_mask(frames)
        bad = found if bad is None else bad | found
        record["mask"] = kinds
    gain = None
    if flat is not None:
        gain, dead = _gain(flat, bad, where)
        bad = dead if bad is None else bad | dead
    if dark is not None or gain is not None or declared.get("threshold") is not None:
        images = dark is not None or gain is not None
        squares = images and is_amplitude is not None and is_amplitude(frames, bad)
        frames = _cleaned(frames, dark, gain, float(declared.get("threshold", 0)), squares=squares)
    if bad is not None and ("mask" in record or gain is not None):
        frames = frames if frames.flags.writeable else frames.copy()
        frames[:, bad] = 0
    if "mask" in record and frames.dtype.kind in "if":
        frames, record["mask"]["negative_values_cleared"] = _cleared(frames)
    crop, binned, centre = declared.get("crop"), int(declared.get("bin", 1)), declared.get("centre")
    zero: dict[str, Any] = {}
    if height == width and centre is None:
        frames, bad, zero = centred(frames, bad, declared=zero_frequency, where=where)
    if height != width or centre is not None or crop is not None or binned > 1:
        middle = (height // 2, width // 2)
        if centre is not None and centre != "auto":
            middle = (round(centre[0]), round(centre[1]))
        elif centre == "auto" or height != width:
            middle = measured_centre(frames, bad)
            record["centre"] = list(middle)
        side = _side(frames.shape, crop, binned, middle, where)
        frames, bad = _window(frames, bad, middle, side, (binned - 1) // 2)
        record |= {"window": side, "centre": list(middle)}
        decided_by = "measured" if centre in (None, "auto") else "declared"
        zero = zero or {"place": list(middle), "decided_by": decided_by}
    window = frames.shape[-1]
    if binned > 1:
        squares = is_amplitude is not None and is_amplitude(frames, bad)
        frames, bad = _binned(frames, bad, binned, squares=squares)
        record["bin"] = binned
    if declared.get("pad") is not None:
        frames, bad = _padded(frames, bad, int(declared["pad"]), where)
        window = frames.shape[-1] * binned
        record["pad"] = frames.shape[-1]
    return Corrected(patterns=frames, bad_pixels=bad, zero=zero, window=window, binned=binned, record=record)


def automatic_mask(frames: NDArray[Any]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Pixels that the detector marks, or that cannot be right, and how many of each kind there are.

    Marked: not finite in any pattern; negative and always the same; negative integers, or the highest value
    of the dtype, in most patterns. Dead: never a count among bright neighbours. Hot: far brighter than their
    neighbourhood, all alone.
    """
    M, height, width = frames.shape
    kind = frames.dtype.kind
    top = np.iinfo(frames.dtype).max if kind in "iu" and frames.dtype.itemsize > 1 else None
    marked = np.zeros((height, width), np.int64)
    broken = np.zeros((height, width), bool)
    total = np.zeros((height, width), np.float64)
    same = np.ones((height, width), bool)
    for block in _blocks(frames):
        wrong = np.zeros(block.shape, bool) if kind == "u" else block < 0
        if kind == "f":
            broken |= ~np.isfinite(block).all(axis=0)
            same &= (block == frames[0]).all(axis=0)
        elif top is not None:
            wrong = wrong | (block == top)
        marked += wrong.sum(axis=0)
        total += np.where(np.isfinite(block) & (block > 0) & ~wrong, block, 0).sum(axis=0, dtype=np.float64)
    by_detector = marked > _MOST * M if kind != "f" else broken | (same & (marked == M))
    clean = np.where(by_detector, 0, total)
    around = ndimage.median_filter(clean, 5, mode="nearest")
    dead = (total == 0) & ~by_detector & (around > _DEAD_COUNTS)
    ring = ndimage.maximum_filter(clean, footprint=np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]), mode="nearest")
    hot = ~by_detector & (total > _HOT_RATIO * np.maximum(around, 1)) & (total > _HOT_RATIO / 2 * np.maximum(ring, 1))
    kinds = {"marked": int(by_detector.sum()), "dead": int(dead.sum()), "hot": int(hot.sum())}
    return by_detector | dead | hot, kinds


def _cleared(frames: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Negative values, the noise around a dark that was subtracted, as 0; and how many there were."""
    cleared = 0
    for block in _blocks(frames):
        negative = block < 0
        if negative.any():
            if not block.flags.writeable:
                return _cleared(frames.copy())
            block[negative] = 0
            cleared += int(negative.sum())
    return frames, cleared


def measured_centre(frames: NDArray[Any], bad: NDArray[np.bool_] | None) -> tuple[int, int]:
    """Pixel (y, x) of the middle of the bright part of the mean pattern.

    The bright part is what exceeds a third of the brightest, single hot pixels left out.
    """
    M = len(frames)
    rows = np.unique(np.linspace(0, M - 1, min(M, SAMPLE)).round().astype(int))
    mean = frames[rows].astype(np.float64).mean(axis=0)
    mean = np.where(np.isfinite(mean), mean, 0)
    if bad is not None:
        mean = np.where(bad, 0, mean)
    calm = ndimage.median_filter(mean, 3, mode="nearest")
    calm = calm if calm.max() > 0 else mean
    weight = np.clip(calm - calm.max() / 3, 0, None)
    if not weight.sum() > 0:
        return mean.shape[0] // 2, mean.shape[1] // 2
    y, x = ndimage.center_of_mass(weight)
    return round(y), round(x)


def _blocks(frames: NDArray[Any]) -> list[NDArray[Any]]:
    return np.array_split(frames, max(1, min(len(frames), frames.nbytes // _BLOCK_BYTES)))


def _gain(
    flat: NDArray[Any], bad: NDArray[np.bool_] | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The response of each pixel relative to the mean of those that respond, and which do not."""
    response = flat.astype(np.float64)
    dead = ~(np.isfinite(response) & (response > 0))
    live = ~dead if bad is None else ~(dead | bad)
    if not live.any():
        expected = "an image of the detector's response to even light, positive somewhere"
        raise ContractError(Problem(f"{where}: flat", "door.flat", expected, "no such pixel", "give another `flat`"))
    return np.where(dead, 1.0, response / response[live].mean()), dead


def _cleaned(
    frames: NDArray[Any],
    dark: NDArray[Any] | None,
    gain: NDArray[np.float64] | None,
    threshold: float,
    *,
    squares: bool,
) -> NDArray[Any]:
    """Dark subtracted, gain divided out and small values cut, float32 where dark or gain leave no whole numbers."""
    whole = frames.dtype.kind in "iu" and not squares and gain is None and (dark is None or dark.dtype.kind in "iu")
    clean = np.empty(frames.shape, frames.dtype if whole or frames.dtype.kind == "f" else np.float32)
    for block, target in zip(_blocks(frames), _blocks(clean), strict=True):
        values = block.astype(np.float64)
        values = np.square(values) if squares else values
        values = values if dark is None else np.clip(values - dark, 0, None)
        values = values if gain is None else values / gain
        values = np.sqrt(values) if squares else values
        target[...] = np.where(values < threshold, 0, values) if threshold > 0 else values
    return clean


def _side(shape: tuple[int, ...], crop: int | None, binned: int, middle: tuple[int, int], where: str) -> int:
    height, width = shape[1:]
    side = (min(height, width) if crop is None else crop) // binned * binned
    problems = []
    if crop is not None and not 8 <= crop <= 2 * max(height, width):
        problems.append(
            Problem(
                f"{where}: crop",
                "door.crop",
                f"8 to {2 * max(height, width)} detector pixels",
                str(crop),
                "give another `crop`",
            )
        )
    if binned < 1 or side // binned < 4:
        problems.append(
            Problem(
                f"{where}: bin",
                "door.bin",
                "at least 4 pixels a side after binning",
                str(binned),
                "give a smaller `bin`",
            )
        )
    if not (0 <= middle[0] < height and 0 <= middle[1] < width):
        problems.append(
            Problem(
                f"{where}: centre",
                "door.centre",
                f"a pixel (y, x) of the detector {(height, width)}",
                str(middle),
                "give `centre=Y,X` or `centre=auto`",
            )
        )
    if problems:
        raise ContractError(problems)
    return side


def _window(
    frames: NDArray[Any], bad: NDArray[np.bool_] | None, middle: tuple[int, int], side: int, offset: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The square whose pixel side // 2 is the middle; what lies outside the detector is 0 and bad."""
    height, width = frames.shape[1:]
    starts = [place - side // 2 - offset for place in middle]
    inside = [
        slice(max(start, 0), min(start + side, size)) for start, size in zip(starts, (height, width), strict=True)
    ]
    target = [slice(cut.start - start, cut.stop - start) for cut, start in zip(inside, starts, strict=True)]
    whole = all(cut.stop - cut.start == side for cut in inside)
    if whole:
        cut = np.ascontiguousarray(frames[:, inside[0], inside[1]])
        return cut, None if bad is None else bad[inside[0], inside[1]].copy()
    window = np.zeros((len(frames), side, side), frames.dtype)
    window[:, target[0], target[1]] = frames[:, inside[0], inside[1]]
    outside = np.ones((side, side), bool)
    outside[target[0], target[1]] = False if bad is None else bad[inside[0], inside[1]]
    return window, outside


def _padded(
    frames: NDArray[Any], bad: NDArray[np.bool_] | None, side: int, where: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The patterns in the middle of larger ones, whose other pixels are 0 and bad."""
    N = frames.shape[-1]
    if not N <= side <= _LARGEST_PAD * N:
        expected = f"{N}, the side of the patterns, to {_LARGEST_PAD * N}"
        raise ContractError(Problem(f"{where}: pad", "door.pad", expected, str(side), "give another `pad`, or `crop`"))
    start = side // 2 - N // 2
    inside = slice(start, start + N)
    needed = len(frames) * side * side * frames.dtype.itemsize
    require_memory(needed, where=f"{where}: pad", remedy="give a smaller `pad`")
    padded = np.zeros((len(frames), side, side), frames.dtype)
    padded[:, inside, inside] = frames
    outside = np.ones((side, side), bool)
    outside[inside, inside] = False if bad is None else bad
    return padded, outside


def _binned(
    frames: NDArray[Any], bad: NDArray[np.bool_] | None, size: int, *, squares: bool
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Sums over squares of pixels; a sum with a bad pixel is bad."""
    M, N = len(frames), frames.shape[-1] // size
    sums = np.empty((M, N, N), np.float32 if squares or frames.dtype.kind == "f" else np.int64)
    for block, target in zip(_blocks(frames), np.array_split(sums, len(_blocks(frames))), strict=True):
        values = block.astype(np.float64 if block.dtype.kind == "f" else np.int64).reshape(len(block), N, size, N, size)
        total = (np.square(values) if squares else values).sum(axis=(2, 4))
        target[...] = np.sqrt(total) if squares else total
    if sums.dtype.kind == "i" and sums.min() >= 0:
        sums = sums.astype(np.min_scalar_type(int(sums.max())))
    grouped = None if bad is None else np.asarray(bad.reshape(N, size, N, size).any(axis=(1, 3)))
    if grouped is not None:
        sums[:, grouped] = 0
    return sums, grouped
