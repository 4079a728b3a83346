"""Networks from diffraction to object: ``unrolled`` iterates physics on a canvas, ``cnn`` maps patterns to patches.

Both take moduli for a normalised probe (PHY-21) and return object estimates on the placement's canvas, the
best one last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from ptycho_contracts.config import ModelConfig
from ptycho_contracts.physics import HALO_PX, SEEN_LIGHT, SMALLEST_INTENSITY, TILE_PX, PassSchedule, finest_passes
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.physics import (
    Placement,
    add_patches,
    exit_waves,
    extract_patches,
    from_detector,
    illumination,
    intensity,
    squared_modulus,
    to_detector,
)

_WAVEFIELDS_AT_ONCE = 1 << 20
"""Values of wavefields in one operation: more would leave the processor's cache."""


Moduli = Tensor | Callable[[int], Tensor]
"""Measured moduli of all patterns, or a function that gives those of a subset by its number, in the passes' order."""


class CanvasNet(nn.Module):
    """A small U-Net [UNet] that corrects an object estimate on a canvas.

    It works at half resolution (pixel unshuffle) and below, because a physics step has only a short
    range. Its last layer starts at zero, so that an untrained net adds nothing.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.in_conv = nn.Conv2d(4 * inputs, 2 * width, 3, padding=1)
        self.fine = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.down = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.up = nn.Conv2d(4 * width, 2 * width, 1)
        self.merge = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.out_conv = nn.Conv2d(2 * width, 4 * 2, 3, padding=1)
        nn.init.zeros_(self.out_conv.weight)
        nn.init.zeros_(self.out_conv.bias)  # type: ignore[arg-type]

    def forward(self, canvas: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 2, H, W), for any H and W; without gradients a large canvas is cut into tiles."""
        return in_tiles(self._whole, canvas, halo_px=HALO_PX)

    def _whole(self, canvas: Tensor) -> Tensor:
        height, width = canvas.shape[-2:]
        padded = F.pad(canvas, (0, -width % 4, 0, -height % 4))
        fine = F.silu(self.in_conv(F.pixel_unshuffle(padded, 2)))
        fine = fine + F.silu(self.fine(fine))
        coarse = F.silu(self.down(fine))
        coarse = coarse + F.silu(self.coarse(coarse))
        fine = F.silu(self.merge(fine + upsample_nearest(self.up(coarse))))
        return F.pixel_shuffle(self.out_conv(fine), 2)[..., :height, :width]


class Unrolled(nn.Module):
    """Iterated physics on a canvas, with a small network's correction in every iteration [Unrolling].

    An iteration is a number of passes over subsets of the patterns, followed by a net. For each subset a pass reads the
    patches, simulates them, replaces the moduli by the measured ones, scatter-adds the differences through the
    conjugate probe on the canvas, divides by the subset's illumination, and takes a step with momentum [Nesterov]. The
    last pass ends with the mean of its estimates. Then the net sees the estimate, the change by the passes, and the
    illumination, and adds its correction. The same weights serve a group's canvas and that of a whole scan.
    """

    infers_whole_canvas = True
    _inputs = 5

    def __init__(self, *, iterations: int, passes: int, width: int) -> None:
        super().__init__()
        self.passes = passes
        self.nets = nn.ModuleList(CanvasNet(self._inputs, width) for _ in range(iterations))

    def forward(
        self,
        amplitude: Moduli,
        probe: Tensor,
        placement: Placement,
        *,
        subsets: Sequence[Tensor],
        canvases: int = 1,
        mask: Tensor | None = None,
        start: Tensor | None = None,
    ) -> list[Tensor]:
        """Estimates of the object after each iteration, each (H, W) complex on the placement's canvas.

        Args:
            amplitude: Measured moduli for a probe of unit energy, zero frequency at [0, 0]: (M, N, N), or a function
                that gives (n, N, N) of a subset.
            probe: (K, N, N) complex, unit energy.
            placement: Sites of the M patches on the (stacked) canvas.
            subsets: Indices of the patterns of each step of a pass; together all M.
            canvases: Number of group canvases stacked along y.
            mask: (N, N), 1 where a detector pixel is good and 0 elsewhere, zero frequency at [0, 0].
            start: (H, W) object of a coarser level: then only the last iteration is left to do, and its estimates
                before and after the net are returned (NET-12); default: empty space.
        """
        nets = list(self.nets) if start is None else [self.nets[-1]]
        schedule = PassSchedule(self.passes * len(nets)) if start is None else finest_passes(self.passes)
        passes = CanvasPasses(amplitude, probe, placement, subsets=subsets, mask=mask, momentum=schedule.momentum)
        seen = passes.light / (passes.light + SEEN_LIGHT * passes.brightest)
        object_ = torch.ones(placement.shape, dtype=probe.dtype, device=probe.device) if start is None else start
        velocity, dampings = torch.zeros_like(object_), schedule.dampings()
        estimates = []
        for number, net in enumerate(nets):
            before, some = object_, dampings[number * self.passes : (number + 1) * self.passes]
            object_, velocity = passes(object_, velocity, some, ends_with_mean=number == len(nets) - 1)
            if start is not None:
                estimates.append(object_)
            moved = object_ - before
            features = torch.stack((object_.real - 1, object_.imag, moved.real, moved.imag, seen))
            features = features.view(self._inputs, canvases, -1, placement.shape[1]).transpose(0, 1)
            change = net(features).transpose(0, 1).reshape(2, *placement.shape).to(seen.dtype)
            object_ = object_ + torch.complex(change[0], change[1]) * seen
            estimates.append(object_)
        return estimates


class CanvasPasses:
    """Passes over subsets of the patterns on one canvas (NET-5).

    Args:
        amplitude, probe, placement, subsets, mask: As of :class:`Unrolled`.
        momentum: Of the steps.
        smoothing: Of a Poisson step, in the unit of the squared moduli; None: steps towards the moduli.

    Attributes:
        light: (H, W) illumination by all subsets.
        brightest: Largest summed |P|^2 of the probe.
    """

    def __init__(
        self,
        amplitude: Moduli,
        probe: Tensor,
        placement: Placement,
        *,
        subsets: Sequence[Tensor],
        mask: Tensor | None,
        momentum: float,
        smoothing: float | None = None,
    ) -> None:
        self._smoothing = smoothing
        self._moduli = (lambda subset: amplitude[subsets[subset]]) if isinstance(amplitude, Tensor) else amplitude
        self._probe, self._mask, self._momentum = probe, mask, momentum
        self._sites = [placement[subset] for subset in subsets]
        self._lights = [illumination(probe, sites) for sites in self._sites]
        self.light = torch.stack(self._lights).sum(0)
        self.brightest = squared_modulus(probe).sum(0).max()

    def __call__(
        self,
        object_: Tensor,
        velocity: Tensor,
        dampings: Sequence[float],
        *,
        ends_with_mean: bool,
        pull: tuple[Tensor, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Estimate and velocity after a pass with each of the dampings; the estimate is that after the last subset,
        or the mean over all subsets of the last pass. With a pull, each step also goes towards an object (H, W), with
        this weight beside the illumination."""
        visited = torch.zeros_like(object_)
        for turn, damping in enumerate(dampings, start=1):
            for subset, (sites, light) in enumerate(zip(self._sites, self._lights, strict=True)):
                moduli, divisor = self._moduli(subset), light + damping * self.brightest
                step = back_project(object_, moduli, self._probe, sites, mask=self._mask, smoothing=self._smoothing)
                if pull is not None:
                    step, divisor = step + pull[1] * (pull[0] - object_), divisor + pull[1]
                step = step / divisor
                velocity = self._momentum * velocity + step
                object_ = object_ + step + self._momentum * velocity
                if ends_with_mean and turn == len(dampings):
                    visited = visited + object_
        # The mean: steps towards single subsets carry their noise.
        return visited / len(self._sites) if ends_with_mean else object_, velocity


def back_project(
    object_: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    placement: Placement,
    *,
    mask: Tensor | None = None,
    smoothing: float | None = None,
) -> Tensor:
    """Sum over patterns of ``sum_k conj(P_k) (psi'_k - psi_k)`` on the canvas, (H, W) complex.

    psi is the simulated wavefield; psi' has the measured modulus, divided among the modes in proportion, and keeps
    the simulated one where ``mask`` is 0. With a smoothing e, ``psi' - psi`` is the gradient of the Poisson likelihood,
    ``psi ((a^2 + e) / (I + e) - 1) / 2``: the same near the measured modulus, unbiased where counts are few.
    """
    some = max(1, _WAVEFIELDS_AT_ONCE // probe.numel())
    parts = [slice(first, first + some) for first in range(0, len(placement), some)]
    patches = [
        _corrections(extract_patches(object_, placement[part]), amplitude[part], probe, mask, smoothing)
        for part in parts
    ]
    return add_patches(torch.cat(patches) if len(patches) > 1 else patches[0], placement)


def _corrections(
    patches: Tensor, amplitude: Tensor, probe: Tensor, mask: Tensor | None, smoothing: float | None
) -> Tensor:
    """Corrections of patches (n, N, N), times the conjugate probe: ``sum_k conj(P_k) (psi'_k - psi_k)`` of each."""
    wavefields = to_detector(exit_waves(patches, probe))
    simulated = intensity(wavefields)
    if smoothing is None:
        excess = amplitude / (simulated + SMALLEST_INTENSITY).sqrt() - 1
    else:
        excess = ((amplitude.square() + smoothing) / (simulated + smoothing) - 1) / 2
    if mask is not None:
        excess = excess * mask
    return (from_detector(wavefields * excess.unsqueeze(1)) * probe.conj()).sum(1)


class PatchNet(nn.Module):
    """The U-Net of [PtychoPINN]: C diffraction patterns to C object patches; amplitude and phase have a decoder each.

    Three pooling stages; two upsampling stages give the central half of a patch, and a second, coarse head fills its
    border. Amplitudes lie in (0, 2), phases in (-1.1 pi, 1.1 pi): these ranges cover every object of the field.
    """

    infers_whole_canvas = False

    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        widths = (4 * width, 8 * width, 16 * width)
        self.stages = nn.ModuleList(
            _two_convs(before, after) for before, after in zip((channels, *widths[:2]), widths, strict=True)
        )
        self.amplitude = _Decoder(widths, channels)
        self.phase = _Decoder(widths, channels)

    def forward(
        self,
        amplitude: Tensor,
        probe: Tensor,
        placement: Placement,
        *,
        subsets: Sequence[Tensor] = (),
        canvases: int = 1,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """One estimate on the stacked group canvases, (H, W) complex; arguments as in :class:`Unrolled`."""
        side = amplitude.shape[-1]
        patterns = amplitude if mask is None else amplitude * mask
        # For a normalised probe the mean squared modulus is 1 / N^2; the net sees about 1, zero frequency central.
        code = torch.fft.fftshift(patterns, dim=(-2, -1)).reshape(canvases, self.channels, side, side) * side
        code = F.pad(code, (0, -side % 8, 0, -side % 8))
        for stage in self.stages:
            code = F.max_pool2d(stage(code), 2)
        modulus = (torch.sigmoid(self.amplitude(code)[..., :side, :side]) * 2).to(amplitude.dtype)
        phase = (torch.tanh(self.phase(code)[..., :side, :side]) * (1.1 * math.pi)).to(amplitude.dtype)
        patches = torch.polar(modulus, phase).reshape(-1, side, side)
        return [merge(patches, probe, placement)]


class _Decoder(nn.Module):
    """From the code to one real image per channel: central half by upsampling, border from a coarse head."""

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.first = _two_convs(widths[2], widths[1])
        self.second = _two_convs(widths[1], widths[0])
        self.centre = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.border = nn.Conv2d(widths[2], channels, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """(B, 16 width, n, n) to (B, C, 8 n, 8 n)."""
        centre = self.centre(self.second(upsample_nearest(self.first(upsample_nearest(code)))))
        border = upsample_nearest(upsample_nearest(upsample_nearest(self.border(code))))
        edge = code.shape[-1] * 2
        return border + F.pad(centre, (edge, edge, edge, edge))


def _two_convs(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
    )


def in_tiles(net: Callable[[Tensor], Tensor], canvas: Tensor, *, halo_px: int) -> Tensor:
    """A net's two outputs (B, 2, H, W) on a canvas (B, C, H, W); without gradients a large one is cut into tiles.

    Args:
        net: From (B, C, h, w) to (B, 2, h, w).
        halo_px: Border around a tile, at least the radius of the receptive field, and a multiple of the coarsest pixel:
            so tiles have the same pixels as the whole canvas at every level.
    """
    height, width = canvas.shape[-2:]
    if torch.is_grad_enabled() or max(height, width) <= TILE_PX + 2 * halo_px:
        return net(canvas)
    result = canvas.new_empty((len(canvas), 2, height, width))
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            y, x = max(0, top - halo_px), max(0, left - halo_px)
            tile = net(canvas[..., y : top + TILE_PX + halo_px, x : left + TILE_PX + halo_px])
            kept = tile[..., top - y : top - y + TILE_PX, left - x : left - x + TILE_PX]
            result[..., top : top + TILE_PX, left : left + TILE_PX] = kept
    return result


def upsample_nearest(image: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 2 H, 2 W) by repetition; its gradient is deterministic on every device."""
    batch, channels, height, width = image.shape
    image = image[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return image.reshape(batch, channels, 2 * height, 2 * width)


def merge(patches: Tensor, probe: Tensor, placement: Placement) -> Tensor:
    """Patches (M, N, N) merged on a canvas with one weight, |P|^2, for numerator and denominator (PHY-7).

    Pixels without illumination hold 1 (empty space).
    """
    power = squared_modulus(probe).sum(0)
    weight = illumination(probe, placement)
    illuminated = weight > 0
    merged = add_patches(patches * power, placement) / torch.where(illuminated, weight, 1)
    return torch.where(illuminated, merged, torch.ones_like(merged))


def build_network(config: ModelConfig) -> nn.Module:
    """The network of a configuration, with fresh weights from torch's generator."""
    if config.architecture == "cnn":
        return PatchNet(channels=config.C_model, width=config.width)
    return Unrolled(iterations=config.iterations, passes=config.passes, width=config.width)
