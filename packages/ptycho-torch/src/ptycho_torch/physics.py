"""Probe times object to detector, and patches on a canvas with their exact adjoint (specs/physics.md).

Complex tensors throughout; ``M`` patterns, ``K`` probe modes, patches of N x N pixels. Intensities are in
units of the scan's mean counts, with a probe of unit energy, so that nothing depends on the photon dose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_data.canvas import Sites
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Placement:
    """Sites of M patches on a canvas.

    Attributes:
        corners_yx: (M, 2) int64, canvas pixel of each patch's pixel [0, 0], rounded down.
        fractions_yx: (M, 2) float, the rest, in [0, 1).
        shape: (H, W) of the canvas; (B * H, W) for B group canvases, one below the other.
        N: Side of a patch.
    """

    corners_yx: Tensor
    fractions_yx: Tensor
    shape: tuple[int, int]
    N: int

    def __len__(self) -> int:
        return len(self.corners_yx)

    def __getitem__(self, index: Any) -> Placement:
        return Placement(self.corners_yx[index], self.fractions_yx[index], self.shape, self.N)

    @classmethod
    def of(cls, sites: Sites) -> Placement:
        """The sites of a scan's patches as tensors."""
        corners, fractions = torch.from_numpy(sites.corners_yx), torch.from_numpy(sites.fractions_yx).float()
        return cls(corners, fractions, sites.shape, sites.N)

    def to(self, device: torch.device | str) -> Placement:
        """The same placement on another device."""
        return Placement(self.corners_yx.to(device), self.fractions_yx.to(device), self.shape, self.N)


def group_placement(coords_relative: Tensor, shape: tuple[int, int], N: int) -> Placement:
    """Placement of B * C patches on B group canvases of ``shape``, stacked along y.

    The group's centre lies on pixel [H // 2, W // 2] of its canvas, patch c at centre - relative_c.

    Args:
        coords_relative: (B, 1, 2, C) float32, [x, y], centre minus position.
        shape: (H, W) of one group canvas, from :func:`ptycho_data.canvas.geometry.group_canvas_shape`.
        N: Side of a patch.
    """
    batch, _, _, channels = coords_relative.shape
    height, width = shape
    relative_yx = coords_relative[:, 0].flip(1).transpose(1, 2).double()
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64, device=coords_relative.device)
    top_left = (centre - relative_yx).reshape(-1, 2) - N // 2
    corners = torch.floor(top_left)
    fractions = (top_left - corners).float()
    corners[:, 0] += torch.arange(batch, device=corners.device).repeat_interleave(channels) * height
    return Placement(corners.long(), fractions, (batch * height, width), N)


class _ReadWindows(torch.autograd.Function):
    """(H, W) canvas to (M, n, n) windows at integer corners; the adjoint scatter-adds windows."""

    @staticmethod
    def forward(ctx: Any, canvas: Tensor, corners_yx: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(corners_yx)
        ctx.shape = canvas.shape
        return _read(canvas, corners_yx, n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (corners_yx,) = ctx.saved_tensors
        return _add(grads[0], corners_yx, ctx.shape), None, None


class _AddWindows(torch.autograd.Function):
    """(M, n, n) windows scatter-added on an (H, W) canvas; the adjoint reads windows."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, corners_yx: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(corners_yx)
        ctx.n = windows.shape[-1]
        return _add(windows, corners_yx, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (corners_yx,) = ctx.saved_tensors
        return _read(grads[0].contiguous(), corners_yx, ctx.n), None, None


def _read(canvas: Tensor, corners_yx: Tensor, n: int) -> Tensor:
    width = canvas.shape[1]
    rows = corners_yx[:, 0, None] * width + corners_yx[:, 1, None]
    rows = rows + torch.arange(n, device=canvas.device) * width
    # Overlapping rows as a strided view: one copy per row instead of one gather per pixel.
    strips = canvas.contiguous().as_strided((canvas.numel() - n + 1, n), (1, 1))
    return strips.index_select(0, rows.reshape(-1)).view(len(corners_yx), n, n)


def _add(windows: Tensor, corners_yx: Tensor, shape: tuple[int, int]) -> Tensor:
    # On a CPU slices are faster, and add in a fixed order.
    add = _add_by_slices if windows.device.type == "cpu" else _add_by_indices
    return add(windows, corners_yx, shape)


def _add_by_slices(windows: Tensor, corners_yx: Tensor, shape: tuple[int, int]) -> Tensor:
    n, canvas = windows.shape[-1], windows.new_zeros(shape)
    for window, (y, x) in zip(windows.unbind(0), corners_yx.tolist(), strict=True):
        canvas[y : y + n, x : x + n] += window
    return canvas


def _add_by_indices(windows: Tensor, corners_yx: Tensor, shape: tuple[int, int]) -> Tensor:
    n, width, canvas = windows.shape[-1], shape[1], windows.new_zeros(shape)
    pixel = torch.arange(n, device=windows.device)
    indices = (corners_yx[:, 0, None, None] + pixel[:, None]) * width + corners_yx[:, 1, None, None] + pixel
    return canvas.view(-1).index_add_(0, indices.reshape(-1), windows.reshape(-1)).view(shape)


def extract_patches(canvas: Tensor, placement: Placement) -> Tensor:
    """Read (M, N, N) patches from a canvas (H, W), bilinear between pixels (PHY: extraction)."""
    windows: Tensor = _ReadWindows.apply(canvas, placement.corners_yx, placement.N + 1)  # type: ignore[no-untyped-call]
    return _interpolate(windows, placement.fractions_yx)


def add_patches(patches: Tensor, placement: Placement) -> Tensor:
    """Scatter-add (M, N, N) patches on a canvas: the exact adjoint of :func:`extract_patches`."""
    real = torch.view_as_real(patches) if patches.is_complex() else patches.unsqueeze(-1)
    fy, fx = _fractions(placement.fractions_yx.to(real.dtype))
    real = torch.lerp(F.pad(real, (0, 0, 0, 1)), F.pad(real, (0, 0, 1, 0)), fx)
    real = torch.lerp(F.pad(real, (0, 0, 0, 0, 0, 1)), F.pad(real, (0, 0, 0, 0, 1, 0)), fy)
    windows = torch.view_as_complex(real) if patches.is_complex() else real.squeeze(-1)
    canvas: Tensor = _AddWindows.apply(windows, placement.corners_yx, placement.shape)  # type: ignore[no-untyped-call]
    return canvas


def _interpolate(windows: Tensor, fractions_yx: Tensor) -> Tensor:
    real = torch.view_as_real(windows) if windows.is_complex() else windows.unsqueeze(-1)
    fy, fx = _fractions(fractions_yx.to(real.dtype))
    real = torch.lerp(real[:, :-1], real[:, 1:], fy)
    real = torch.lerp(real[:, :, :-1], real[:, :, 1:], fx)
    return torch.view_as_complex(real) if windows.is_complex() else real.squeeze(-1)


def _fractions(fractions_yx: Tensor) -> tuple[Tensor, Tensor]:
    return fractions_yx[:, 0, None, None, None], fractions_yx[:, 1, None, None, None]


def exit_waves(patches: Tensor, probe: Tensor) -> Tensor:
    """(M, N, N) patches and (K, N, N) probe modes to (M, K, N, N) exit waves."""
    return patches.unsqueeze(1) * probe


def to_detector(wavefields: Tensor) -> Tensor:
    """Unitary transform of (..., N, N) wavefields; zero frequency at [0, 0], unlike the stored patterns."""
    spectrum: Tensor = torch.fft.fft2(wavefields, norm="ortho")
    return spectrum


def from_detector(wavefields: Tensor) -> Tensor:
    """Inverse of :func:`to_detector`."""
    exit_wave: Tensor = torch.fft.ifft2(wavefields, norm="ortho")
    return exit_wave


def squared_modulus(field: Tensor) -> Tensor:
    """|z|^2 of a complex tensor, smooth at 0."""
    return field.real.square() + field.imag.square()


def intensity(detector_wavefields: Tensor) -> Tensor:
    """(M, K, N, N) detector wavefields to (M, N, N) intensities: the incoherent sum over modes."""
    return squared_modulus(detector_wavefields).sum(1)


def simulate(patches: Tensor, probe: Tensor) -> Tensor:
    """Intensities (M, N, N), zero frequency at [0, 0], of (M, N, N) patches under (K, N, N) probe modes."""
    return intensity(to_detector(exit_waves(patches, probe)))


def unit_probe(probe: Tensor) -> Tensor:
    """The probe with unit energy: sum over modes and pixels of |P|^2 = 1."""
    return probe / squared_modulus(probe).sum().sqrt()


def illumination(probe: Tensor, placement: Placement) -> Tensor:
    """Summed |P|^2 of all patterns on the canvas, (H, W) real."""
    return add_patches(squared_modulus(probe).sum(0).expand(len(placement), -1, -1), placement)


def to_corner(patterns: Tensor) -> Tensor:
    """Patterns with zero frequency moved from [N // 2, N // 2] to [0, 0].

    Done once for the data, so that the model need not shift each simulated pattern.
    """
    moved: Tensor = torch.fft.ifftshift(patterns, dim=(-2, -1))
    return moved


def normalised_intensity(counts: Tensor, mean_counts: Tensor | float) -> Tensor:
    """Counts (..., N, N) in units of the mean counts, zero frequency moved from [N // 2, N // 2] to [0, 0]."""
    return to_corner(counts) / mean_counts


def good_pixels(bad_pixels: NDArray[np.bool_] | None, device: torch.device | str = "cpu") -> Tensor | None:
    """Mask of good pixels as a float tensor with zero frequency at [0, 0], or None if all are good."""
    if bad_pixels is None or not np.any(bad_pixels):
        return None
    return to_corner(torch.from_numpy(~np.asarray(bad_pixels)).float()).to(device)
