"""Networks from diffraction to object: ``unrolled`` iterates physics on a canvas, ``cnn`` maps patterns to patches.

Both take moduli for a normalised probe (PHY-21) and return object estimates on the placement's canvas, the
best one last. Weights have the names and layouts of the bundle (specs/bundle.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from ptycho_contracts.config import ModelConfig
from ptycho_contracts.physics import HALO_PX, SEEN_LIGHT, TILE_PX, PassSchedule, finest_passes
from ptycho_data.canvas import Sites

from ptycho_tf.framework import tf
from ptycho_tf.layers import Conv, Layers, Make, upsample_nearest, weights, with_weights
from ptycho_tf.passes import Moduli, StreamPasses, TensorPasses
from ptycho_tf.physics import Placement, Tensor, add_patches, illumination, scaled, squared_modulus, to_centre


class CanvasNet(Layers):
    """A small U-Net [UNet] that corrects an object estimate on a canvas.

    It works at half resolution (pixel unshuffle) and below, because a physics step has only a short
    range. Its last layer starts at zero, so that an untrained net adds nothing.
    """

    def __init__(self, inputs: int, width: int, make: Make) -> None:
        self.in_conv = Conv(4 * inputs, 2 * width, 3, make=make)
        self.fine = Conv(2 * width, 2 * width, 3, make=make)
        self.down = Conv(2 * width, 4 * width, 3, make=make)
        self.coarse = Conv(4 * width, 4 * width, 3, make=make)
        self.up = Conv(4 * width, 2 * width, 1, make=make)
        self.merge = Conv(2 * width, 2 * width, 3, make=make)
        self.out_conv = Conv(2 * width, 4 * 2, 3, zero=True, make=make)

    def __call__(self, canvas: Tensor) -> Tensor:
        """(B, H, W, inputs) to (B, H, W, 2), for any H and W."""
        height, width = tf.shape(canvas)[1], tf.shape(canvas)[2]
        padded = tf.pad(canvas, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
        fine = tf.nn.silu(self.in_conv.from_unshuffled(padded))
        fine = fine + tf.nn.silu(self.fine(fine))
        coarse = tf.nn.silu(self.down(fine, stride=2))
        coarse = coarse + tf.nn.silu(self.coarse(coarse))
        fine = tf.nn.silu(self.merge(fine + upsample_nearest(self.up(coarse))))
        return self.out_conv.to_shuffled(fine)[:, :height, :width]


class Unrolled(Layers):
    """Iterated physics on a canvas, with a small network's correction in every iteration [Unrolling].

    An iteration is a number of passes over subsets of the patterns, followed by a net. For each subset a pass reads the
    patches, simulates them, replaces the moduli by the measured ones, scatter-adds the differences through the
    conjugate probe on the canvas, divides by the subset's illumination, and takes a step with momentum [Nesterov]. The
    last pass ends with the mean of its estimates. Then the net sees the estimate, the change by the passes, and the
    illumination, and adds its correction. The same weights serve a group's canvas and that of a whole scan.

    Args:
        compute_dtype: Of the nets' work; physics stays in the precision of the probe.
    """

    infers_whole_canvas = True
    _inputs = 5

    def __init__(self, *, iterations: int, passes: int, width: int, compute_dtype: str, make: Make) -> None:
        self.passes = passes
        self.nets = [CanvasNet(self._inputs, width, make=make) for _ in range(iterations)]
        self.compute_dtype = compute_dtype
        # One graph for the nets of all iterations, which differ in their weights alone.
        self._corrected = tf.function(
            partial(_corrected, self.nets[0], compute_dtype), reduce_retracing=True, autograph=False
        )

    def __call__(
        self,
        amplitude: Tensor | Moduli,
        probe: Tensor,
        placement: Placement,
        *,
        subsets: Tensor | Sequence[Sites],
        canvases: Any = 1,
        mask: Tensor | None = None,
        start: Tensor | None = None,
    ) -> list[Tensor]:
        """Estimates of the object after each iteration, each (H, W) complex on the placement's canvas.

        Args:
            amplitude: Measured moduli for a probe of unit energy, zero frequency at [0, 0]: (M, N, N), or a function
                that gives (n, N, N) of a subset, then without gradients.
            probe: (K, N, N) complex, unit energy.
            placement: Sites of the M patches on the (stacked) canvas.
            subsets: Of the patterns of each step of a pass, together all M: indices of one size where the moduli are
                a tensor, else sites.
            canvases: Number of group canvases stacked along y.
            mask: (N, N), 1 where a detector pixel is good and 0 elsewhere, zero frequency at [0, 0].
            start: (H, W) object of a coarser level, where the moduli are given by a function: then only the last
                iteration is left to do, and its estimates before and after the net are returned (NET-12); default:
                empty space.
        """
        nets = self.nets if start is None else self.nets[-1:]
        schedule = PassSchedule(self.passes * len(nets)) if start is None else finest_passes(self.passes)
        brightest = tf.reduce_max(tf.reduce_sum(squared_modulus(probe), axis=0))
        passes: TensorPasses | StreamPasses
        if tf.is_tensor(amplitude):
            passes = TensorPasses(amplitude, probe, placement, tf.convert_to_tensor(subsets), mask)
        else:
            passes = StreamPasses(amplitude, probe, subsets, mask, momentum=schedule.momentum)
        seen = passes.light / (passes.light + SEEN_LIGHT * brightest)
        object_ = tf.ones(placement.shape, probe.dtype) if start is None else start
        all_dampings = schedule.dampings()
        velocity = tf.zeros_like(object_)
        estimates = []
        for number, net in enumerate(nets):
            some = all_dampings[number * self.passes : (number + 1) * self.passes]
            dampings = tf.constant(some, seen.dtype) * brightest
            ends = number == len(nets) - 1
            moved, velocity = passes(object_, velocity, dampings, ends_with_mean=ends)
            if start is not None:
                estimates.append(moved)
            values = [tf.convert_to_tensor(value) for _, value in weights(net)]
            # Outside a graph there are too few calls of a net for a graph to pay off.
            corrected = partial(_corrected, net, self.compute_dtype) if tf.executing_eagerly() else self._corrected
            object_ = _tiled(partial(corrected, values), object_, moved, seen, canvases)
            estimates.append(object_)
        return estimates


def _tiled(corrected: Any, before: Tensor, object_: Tensor, seen: Tensor, canvases: Any) -> Tensor:
    """The corrected estimate; a large canvas outside a graph, so without gradients, is processed in tiles."""
    if not tf.executing_eagerly() or canvases != 1 or max(object_.shape) <= TILE_PX + 2 * HALO_PX:
        return corrected(before, object_, seen, canvases)
    height, width = object_.shape
    rows = []
    for top in range(0, height, TILE_PX):
        row = []
        for left in range(0, width, TILE_PX):
            # Tiles start at multiples of 4, so that their pixels are the same at every level.
            y, x = max(0, top - HALO_PX), max(0, left - HALO_PX)
            window = np.s_[y : top + TILE_PX + HALO_PX, x : left + TILE_PX + HALO_PX]
            tile = corrected(before[window], object_[window], seen[window], 1)
            row.append(tile[top - y : top - y + TILE_PX, left - x : left - x + TILE_PX])
        rows.append(tf.concat(row, axis=1))
    return tf.concat(rows, axis=0)


def _corrected(
    net: CanvasNet,
    compute_dtype: str,
    values: Sequence[Tensor],
    before: Tensor,
    object_: Tensor,
    seen: Tensor,
    canvases: Any,
) -> Tensor:
    """The estimate after a pass with the correction of a net of these weights."""
    moved = object_ - before
    real, imag = tf.math.real, tf.math.imag
    features = tf.stack((real(object_) - 1, imag(object_), real(moved), imag(moved), seen), axis=-1)
    height, width = tf.shape(object_)[0], tf.shape(object_)[1]
    features = tf.reshape(features, (canvases, height // canvases, width, features.shape[-1]))
    change = with_weights(net, iter(values))(tf.cast(features, compute_dtype))
    change = tf.reshape(tf.cast(change, seen.dtype), (height, width, 2)) * seen[..., None]
    return object_ + tf.complex(change[..., 0], change[..., 1])


class PatchNet(Layers):
    """The U-Net of [PtychoPINN]: C diffraction patterns to C object patches; amplitude and phase have a decoder each.

    Three pooling stages; two upsampling stages give the central half of a patch, and a second, coarse head fills its
    border. Amplitudes lie in (0, 2), phases in (-1.1 pi, 1.1 pi): these ranges cover every object of the field.
    """

    infers_whole_canvas = False

    def __init__(self, *, channels: int, width: int, compute_dtype: str, make: Make) -> None:
        self.channels = channels
        self.compute_dtype = compute_dtype
        widths = (4 * width, 8 * width, 16 * width)
        self.stages = [
            _TwoConvs(before, after, make=make) for before, after in zip((channels, *widths[:2]), widths, strict=True)
        ]
        self.amplitude = _Decoder(widths, channels, make=make)
        self.phase = _Decoder(widths, channels, make=make)

    def __call__(
        self,
        amplitude: Tensor,
        probe: Tensor,
        placement: Placement,
        *,
        subsets: Sequence[Tensor] = (),
        canvases: Any = 1,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """One estimate on the stacked group canvases, (H, W) complex; arguments as in :class:`Unrolled`."""
        side = int(amplitude.shape[-1])
        patterns = amplitude if mask is None else amplitude * mask
        # For a normalised probe the mean squared modulus is 1 / N^2; the net sees about 1, zero frequency central.
        code = tf.reshape(to_centre(patterns), (canvases, self.channels, side, side)) * side
        code = tf.cast(tf.transpose(code, (0, 2, 3, 1)), self.compute_dtype)
        code = tf.pad(code, ((0, 0), (0, -side % 8), (0, -side % 8), (0, 0)))
        for stage in self.stages:
            code = tf.nn.max_pool2d(stage(code), 2, 2, "VALID")
        modulus = tf.sigmoid(self.amplitude(code)[:, :side, :side]) * 2
        phase = tf.tanh(self.phase(code)[:, :side, :side]) * (1.1 * math.pi)
        modulus, phase = (
            tf.reshape(tf.transpose(tf.cast(part, amplitude.dtype), (0, 3, 1, 2)), (-1, side, side))
            for part in (modulus, phase)
        )
        patches = tf.complex(modulus * tf.cos(phase), modulus * tf.sin(phase))
        return [merge(patches, probe, placement)]


class _Decoder(Layers):
    """From the code to one real image per channel: central half by upsampling, border from a coarse head."""

    def __init__(self, widths: tuple[int, int, int], channels: int, make: Make) -> None:
        self.first = _TwoConvs(widths[2], widths[1], make=make)
        self.second = _TwoConvs(widths[1], widths[0], make=make)
        self.centre = Conv(widths[0], channels, 3, make=make)
        self.border = Conv(widths[2], channels, 3, make=make)

    def __call__(self, code: Tensor) -> Tensor:
        """(B, n, n, 16 width) to (B, 8 n, 8 n, C)."""
        centre = self.centre(self.second(upsample_nearest(self.first(upsample_nearest(code)))))
        border = upsample_nearest(upsample_nearest(upsample_nearest(self.border(code))))
        edge = int(code.shape[1]) * 2
        return border + tf.pad(centre, ((0, 0), (edge, edge), (edge, edge), (0, 0)))


class _TwoConvs(Layers):
    """Two convolutions with ReLU after each."""

    def __init__(self, before: int, after: int, make: Make) -> None:
        self.first = Conv(before, after, 3, make=make)
        self.second = Conv(after, after, 3, make=make)

    def parts(self) -> dict[str, Any]:
        """The convolutions; PyTorch's sequence counts the ReLUs, too."""
        return {"0": self.first, "2": self.second}

    def __call__(self, image: Tensor) -> Tensor:
        return tf.nn.relu(self.second(tf.nn.relu(self.first(image))))


def merge(patches: Tensor, probe: Tensor, placement: Placement) -> Tensor:
    """Patches (M, N, N) merged on a canvas with one weight, |P|^2, for numerator and denominator (PHY-7).

    Pixels without illumination hold 1 (empty space).
    """
    power = tf.reduce_sum(squared_modulus(probe), axis=0)
    weight = illumination(probe, placement)
    illuminated = weight > 0
    divisor = tf.where(illuminated, weight, tf.ones_like(weight))
    merged = scaled(add_patches(scaled(patches, power), placement), 1 / divisor)
    return tf.where(illuminated, merged, tf.ones_like(merged))


def build_network(config: ModelConfig, *, make: Make, compute_dtype: str = "float32") -> Unrolled | PatchNet:
    """The network of a configuration.

    Args:
        make: Makes its variables: :func:`ptycho_tf.layers.fresh` or ``shapes_only``.
        compute_dtype: Of the convolutions.
    """
    if config.architecture == "cnn":
        return PatchNet(channels=config.C_model, width=config.width, compute_dtype=compute_dtype, make=make)
    return Unrolled(
        iterations=config.iterations, passes=config.passes, width=config.width, compute_dtype=compute_dtype, make=make
    )
