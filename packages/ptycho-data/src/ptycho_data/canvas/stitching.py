"""Patches and positions -> canvas, and back (specs/grouping.md, STITCH).

Extraction reads a patch by bilinear interpolation; scatter-add is its exact adjoint. A canvas is
``sum A^T(w p) / sum A^T(w)`` with one weight w for numerator and denominator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups

from ptycho_data.canvas.geometry import CanvasGeometry, corners_and_fractions
from ptycho_data.canvas.scatter_add import ScatterAdd
from ptycho_data.free_memory import require_memory

_BLOCK_VALUES = 1 << 20
_BYTES_PER_PIXEL = 16 + 8 + 8 + 4
"""Of the sums and of the result."""


class Stitcher:
    """Streaming accumulator of weighted patches; memory is one canvas and one batch.

    Args:
        geometry: Frame of the canvas, from :func:`ptycho_data.canvas.geometry.canvas_geometry` of all positions.

    Raises:
        ContractError: less free memory than the canvas needs.
    """

    def __init__(self, geometry: CanvasGeometry) -> None:
        self.geometry = geometry
        self.patches = 0
        height, width = geometry.shape
        remedy = "check the positions with inspect: their unit, and whether all belong to one region"
        require_memory(height * width * _BYTES_PER_PIXEL, where=f"canvas of {height} x {width} px", remedy=remedy)
        self._numerator = np.zeros(geometry.shape, np.complex128)
        self._denominator = np.zeros(geometry.shape, np.float64)
        self._scatter: ScatterAdd | None = None

    def add(self, patches: NDArray[Any], positions_px: NDArray[Any], weight: NDArray[Any] | None = None) -> None:
        """Scatter-add patches, each at its own position.

        Args:
            patches: (n, N, N) complex.
            positions_px: (n, 2) ``[x, y]`` of each patch's pixel ``[N // 2, N // 2]``.
            weight: (N, N) or (n, N, N) real, not negative; default: ones.

        Raises:
            ContractError: wrong shapes, unequal counts, values that are not finite, or a patch beyond
                the canvas: nothing is added then.
        """
        patches, weight = np.asarray(patches), _checked(patches, positions_px, weight)
        if not len(patches):
            return
        n, N = len(patches), patches.shape[-1]
        corners, fractions = corners_and_fractions(positions_px, self.geometry, N)
        single = patches.dtype in (np.complex64, np.float32)
        patches = patches.astype(np.complex64 if single else np.complex128, copy=False)
        real = patches.real.dtype
        if self._scatter is None or (self._scatter.N, self._scatter.real) != (N, real):
            self._scatter = ScatterAdd(N, real)
        self._scatter.place(self._numerator, self._denominator, patches, weight, corners, fractions)
        self.patches += n

    def add_groups(
        self, patches: NDArray[Any], groups: Groups, positions_px: NDArray[Any], weight: NDArray[Any] | None = None
    ) -> None:
        """Scatter-add the patches (n, C, N, N) of n groups at the positions (M, 2) of their members."""
        patches = np.asarray(patches)
        if patches.ndim != 4 or patches.shape[:2] != groups.nn_indices.shape:
            raise ContractError(
                Problem(
                    "Stitcher.add_groups: patches",
                    "stitch.groups",
                    f"(n, C, N, N) with (n, C) = {groups.nn_indices.shape}",
                    f"shape {patches.shape}",
                    "give one patch for each member of each group",
                )
            )
        positions = np.asarray(positions_px, dtype=np.float64)[groups.nn_indices]
        self.add(patches.reshape(-1, *patches.shape[2:]), positions.reshape(-1, 2), weight)

    def result(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Canvas (H, W) complex64 and its summed weight (H, W) float32; where that is 0, the canvas is 0."""
        weight = self._denominator.astype(np.float32)
        seen = weight > 0
        canvas = np.zeros(self.geometry.shape, np.complex64)
        canvas[seen] = self._numerator[seen] / self._denominator[seen]
        return canvas, weight


def extract_patches(canvas: NDArray[Any], positions_px: NDArray[Any], geometry: CanvasGeometry, N: int) -> NDArray[Any]:
    """Read patches from a canvas, by bilinear interpolation at fractional positions.

    Args:
        canvas: (H, W) real or complex.
        positions_px: (n, 2) ``[x, y]``.
        geometry: Frame of the canvas: its origin and shape.
        N: Side of a patch in pixels.

    Returns:
        (n, N, N), of the canvas' dtype.

    Raises:
        ContractError: bad positions, a patch beyond the canvas, or a canvas of another shape than its frame.
    """
    canvas = np.asarray(canvas)
    if canvas.shape != tuple(geometry.shape):
        raise ContractError(
            Problem(
                "extract_patches: canvas",
                "canvas.shape",
                f"shape {tuple(geometry.shape)}, as its frame says",
                f"shape {canvas.shape}",
                "give the canvas with its own geometry",
            )
        )
    corners, fractions = corners_and_fractions(positions_px, geometry, N)
    real = np.zeros(0, canvas.dtype).real.dtype
    patches = np.empty((len(corners), N, N), canvas.dtype)
    last = np.asarray(canvas.shape) - 1
    for row, ((top, left), (down, right)) in enumerate(zip(corners, fractions.astype(real), strict=True)):
        # Where the canvas ends with the patch, the fraction is 0 and the repeated edge does not count.
        y = np.minimum(np.arange(top, top + N + 1), last[0])
        x = np.minimum(np.arange(left, left + N + 1), last[1])
        window = canvas[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        if window.shape != (N + 1, N + 1):
            window = canvas[np.ix_(y, x)]
        lines = (1 - down) * window[:-1] + down * window[1:]
        patches[row] = (1 - right) * lines[:, :-1] + right * lines[:, 1:]
    return patches


def _checked(patches: Any, positions_px: Any, weight: Any) -> NDArray[Any]:
    patches, positions = np.asarray(patches), np.asarray(positions_px)
    problems = []
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or patches.dtype.kind not in "fc":
        problems.append(
            Problem(
                "Stitcher.add: patches",
                "stitch.patches",
                "(n, N, N) complex",
                f"{patches.dtype} of shape {patches.shape}",
                "flatten groups and channels to one axis, or use add_groups",
            )
        )
    elif positions.shape != (len(patches), 2):
        problems.append(
            Problem(
                "Stitcher.add: positions_px",
                "stitch.counts_differ",
                f"({len(patches)}, 2), one position per patch",
                f"shape {positions.shape} for {len(patches)} patches",
                "pair each patch with its position",
            )
        )
    elif not _all_finite(patches):
        problems.append(
            Problem(
                "Stitcher.add: patches",
                "array.not_finite",
                "finite values",
                "NaN or infinite values",
                "the network or the object diverged; do not stitch it",
            )
        )
    checked = np.ones(patches.shape[-2:]) if weight is None else np.asarray(weight)
    if checked.shape not in (patches.shape[-2:], patches.shape) or checked.dtype.kind not in "fiu":
        problems.append(
            Problem(
                "Stitcher.add: weight",
                "stitch.weight",
                "(N, N) or (n, N, N) real",
                f"{checked.dtype} of shape {checked.shape}",
                "give one weight for each pixel of a patch",
            )
        )
    elif not (np.isfinite(checked).all() and (checked >= 0).all()):
        problems.append(
            Problem(
                "Stitcher.add: weight",
                "stitch.weight",
                "finite weights >= 0",
                "negative, NaN or infinite ones",
                "use an intensity, such as |probe|^2",
            )
        )
    if problems:
        raise ContractError(problems)
    return checked


def _all_finite(patches: NDArray[Any]) -> bool:
    """As real numbers and in blocks: many times faster than complex ones at once, and no large temporary."""
    step = max(1, _BLOCK_VALUES // max(1, patches[0].size if len(patches) else 1))
    for start in range(0, len(patches), step):
        block = np.ascontiguousarray(patches[start : start + step])
        if not np.isfinite(block.view(block.real.dtype)).all():
            return False
    return True
