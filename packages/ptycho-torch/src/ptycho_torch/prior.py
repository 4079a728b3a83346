"""The learned prior: a network that removes noise from complex canvases (specs/prior.md, PRI-1 to PRI-4)."""

from __future__ import annotations

from itertools import pairwise

import torch
from ptycho_contracts.physics import PRIOR_HALO_PX, PRIOR_WIDTHS
from ptycho_data.pretrained import prior_weights
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.network import in_tiles, upsample_nearest


class PriorNet(nn.Module):
    """A U-Net [UNet] from a noisy canvas and its noise level to the clean canvas.

    It works at half resolution (pixel unshuffle) and below. Its last layer starts at zero, so that an untrained net
    changes nothing, and its output is in units of the noise level, so that little noise means little change.
    """

    def __init__(self, widths: tuple[int, ...] = PRIOR_WIDTHS) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self._multiple = 2 ** len(widths)
        self.first = nn.Conv2d(4 * 3, widths[0], 3, padding=1)
        self.before = nn.ModuleList(_Residual(width) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.after = nn.ModuleList(_Residual(width) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], 4 * 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @classmethod
    def pretrained(cls) -> PriorNet:
        """The network with the weights that are shipped."""
        net = cls()
        net.load_state_dict({name: torch.from_numpy(value) for name, value in prior_weights().items()})
        return net.eval().requires_grad_(False)

    def forward(self, canvas: Tensor, sigma: Tensor) -> Tensor:
        """Clean canvases (B, H, W) complex.

        Args:
            canvas: (B, H, W) complex, of rms amplitude about 1.
            sigma: (B, H, W) real, expected modulus of its noise.
        """
        turn = global_phase(canvas)
        turned = canvas * turn.conj()
        features = torch.stack((turned.real - 1, turned.imag, sigma), dim=1)
        change = in_tiles(self._change, features, halo_px=PRIOR_HALO_PX) * sigma[:, None]
        return canvas + torch.complex(change[:, 0], change[:, 1]) * turn

    def _change(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        code = F.pad(features, (0, -width % self._multiple, 0, -height % self._multiple))
        code = self.first(F.pixel_unshuffle(code, 2))
        kept = []
        for block, down in zip(self.before, self.down, strict=False):
            kept.append(block(code))
            code = down(F.pixel_unshuffle(kept[-1], 2))
        code = self.before[-1](code)
        for up, block, skip in zip(reversed(self.up), reversed(self.after), reversed(kept), strict=True):
            code = block(skip + upsample_nearest(up(code)))
        change: Tensor = F.pixel_shuffle(self.last(code), 2)[..., :height, :width]
        return change


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """The code with a correction."""
        corrected: Tensor = code + self.outer(F.silu(self.inner(code)))
        return corrected


def global_phase(canvas: Tensor) -> Tensor:
    """(B, 1, 1) complex of modulus 1: the phase of the mean; 1 if that is zero (PRI-2)."""
    mean = canvas.mean(dim=(-2, -1), keepdim=True)
    modulus = mean.abs()
    turn: Tensor = torch.where(modulus > 0, mean / modulus.clamp_min(torch.finfo(modulus.dtype).tiny), 1)
    return turn
