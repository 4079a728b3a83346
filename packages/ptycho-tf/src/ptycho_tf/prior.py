"""The learned prior: a network that removes noise from complex canvases (specs/prior.md, PRI-1 to PRI-4)."""

from __future__ import annotations

from itertools import pairwise

from ptycho_contracts.physics import PRIOR_HALO_PX, PRIOR_WIDTHS, TILE_PX
from ptycho_data.pretrained import prior_weights

from ptycho_tf.framework import tf
from ptycho_tf.layers import Conv, Layers, Make, put_weights, shapes_only, upsample_nearest
from ptycho_tf.physics import Tensor


class PriorNet(Layers):
    """A U-Net [UNet] from a noisy canvas and its noise level to the clean canvas.

    It works at half resolution (pixel unshuffle) and below. Its last layer starts at zero, so that an untrained net
    changes nothing, and its output is in units of the noise level, so that little noise means little change.
    """

    def __init__(self, make: Make, widths: tuple[int, ...] = PRIOR_WIDTHS) -> None:
        pairs = list(pairwise(widths))
        self._multiple = 2 ** len(widths)
        self.first = Conv(4 * 3, widths[0], 3, make=make)
        self.before = [_Residual(width, make) for width in widths]
        self.down = [Conv(4 * fine, coarse, 1, make=make) for fine, coarse in pairs]
        self.up = [Conv(coarse, fine, 1, make=make) for fine, coarse in pairs]
        self.after = [_Residual(width, make) for width in widths[:-1]]
        self.last = Conv(widths[0], 4 * 2, 3, make=make, zero=True)
        self._graph = tf.function(self._change, reduce_retracing=True, autograph=False)

    @classmethod
    def pretrained(cls) -> PriorNet:
        """The network with the weights that are shipped."""
        net = cls(shapes_only)
        put_weights(net, prior_weights())
        return net

    def __call__(self, canvas: Tensor, sigma: Tensor) -> Tensor:
        """Clean canvases (B, H, W) complex.

        Args:
            canvas: (B, H, W) complex, of rms amplitude about 1.
            sigma: (B, H, W) real, expected modulus of its noise.
        """
        turn = global_phase(canvas)
        turned = canvas * tf.math.conj(turn)
        features = tf.stack((tf.math.real(turned) - 1, tf.math.imag(turned), sigma), axis=-1)
        change = self._tiled(features) * sigma[..., None]
        return canvas + tf.complex(change[..., 0], change[..., 1]) * turn

    def _tiled(self, features: Tensor) -> Tensor:
        """Changes (B, H, W, 2); a large canvas is cut into tiles."""
        _, height, width, _ = features.shape
        halo, side = PRIOR_HALO_PX, TILE_PX
        if max(height, width) <= side + 2 * halo:
            return self._graph(features)
        rows = []
        for top in range(0, height, side):
            row = []
            for left in range(0, width, side):
                # Tiles start at multiples of 16, so that their pixels are the same at every level.
                y, x = max(0, top - halo), max(0, left - halo)
                tile = self._graph(features[:, y : top + side + halo, x : left + side + halo])
                row.append(tile[:, top - y : top - y + side, left - x : left - x + side])
            rows.append(tf.concat(row, axis=2))
        return tf.concat(rows, axis=1)

    def _change(self, features: Tensor) -> Tensor:
        height, width = tf.shape(features)[1], tf.shape(features)[2]
        pads = ((0, 0), (0, -height % self._multiple), (0, -width % self._multiple), (0, 0))
        code = self.first.from_unshuffled(tf.pad(features, pads))
        kept = []
        for block, down in zip(self.before, self.down, strict=False):
            kept.append(block(code))
            code = down.from_unshuffled(kept[-1])
        code = self.before[-1](code)
        for up, block, skip in zip(reversed(self.up), reversed(self.after), reversed(kept), strict=True):
            code = block(skip + upsample_nearest(up(code)))
        return self.last.to_shuffled(code)[:, :height, :width]


class _Residual(Layers):
    def __init__(self, width: int, make: Make) -> None:
        self.inner = Conv(width, width, 3, make=make)
        self.outer = Conv(width, width, 3, make=make)

    def __call__(self, code: Tensor) -> Tensor:
        """The code with a correction."""
        return code + self.outer(tf.nn.silu(self.inner(code)))


def global_phase(canvas: Tensor) -> Tensor:
    """(B, 1, 1) complex of modulus 1: the phase of the mean; 1 if that is zero (PRI-2)."""
    mean = tf.reduce_mean(canvas, axis=(-2, -1), keepdims=True)
    modulus = tf.abs(mean)
    safe = tf.where(modulus > 0, modulus, 1)
    return tf.where(modulus > 0, mean / tf.cast(safe, mean.dtype), tf.ones_like(mean))
