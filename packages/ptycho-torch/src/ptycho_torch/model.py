"""Network and physics as one trainable thing: groups of counts in, simulated patterns and their loss out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.config import ModelConfig
from ptycho_contracts.physics import EARLIER_ITERATIONS, EPS_COUNTS
from torch import Tensor, nn

from ptycho_torch.losses import LOSSES
from ptycho_torch.network import build_network
from ptycho_torch.physics import Placement, extract_patches, place_groups, simulate, to_corner, unit_probe


class PtychoModel(nn.Module):
    """A network with the probe that it was trained for.

    Args:
        config: Architecture and channel count.
        probe: (modes, N, N) complex, any scale; kept with unit energy (the gauge is the scan's mean counts).
    """

    probe: Tensor

    def __init__(self, config: ModelConfig, probe: NDArray[np.complex64]) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config)
        self.register_buffer("probe", unit_probe(torch.from_numpy(np.array(probe, np.complex64))))

    def forward(
        self, batch: Mapping[str, Tensor], *, canvas_shape: tuple[int, int], mask: Tensor | None = None
    ) -> tuple[list[Tensor], Placement, Tensor]:
        """Object estimates on the groups' canvases.

        Args:
            batch: Tensors of a :class:`ptycho_contracts.records.Batch`, by name.
            canvas_shape: (H, W) of one group canvas.
            mask: (N, N) of good pixels, zero frequency at [0, 0].

        Returns:
            estimates (the best last, each (B * H, W) complex), the patches' placement, and the measured
            intensities (B * C, N, N) in units of the mean counts, zero frequency at [0, 0].
        """
        counts = batch["counts"]
        groups, channels, side, _ = counts.shape
        measured = to_corner(counts) / batch["mean_counts"][:, None, None, None]
        measured = measured.reshape(-1, side, side)
        placement = place_groups(batch["coords_relative"], canvas_shape, side)
        # One member of every group at a time: on a canvas of its own each then moves as far as in a whole scan.
        first = torch.arange(groups, device=counts.device) * channels
        subsets = [first + channel for channel in range(channels)]
        estimates = self.network(
            measured.sqrt(), self.probe_for(measured), placement, subsets=subsets, canvases=groups, mask=mask
        )
        return estimates, placement, measured

    def flat_loss(self, batch: Mapping[str, Tensor], *, kind: str, mask: Tensor | None = None) -> float:
        """Loss of empty space: what a network must beat to have learned anything."""
        counts = batch["counts"]
        channels, side = counts.shape[1], counts.shape[-1]
        measured = (to_corner(counts) / batch["mean_counts"][:, None, None, None]).reshape(-1, side, side)
        eps = (EPS_COUNTS / batch["mean_counts"]).repeat_interleave(channels)[:, None, None]
        with torch.no_grad():
            probe = self.probe_for(measured)
            simulated = simulate(torch.ones((1, side, side), dtype=probe.dtype, device=probe.device), probe)
            return float(LOSSES[kind](simulated.expand_as(measured), measured, eps=eps, mask=mask))

    def probe_for(self, measured: Tensor) -> Tensor:
        """The probe in the precision of the measurements; ``module.double()`` leaves complex buffers alone."""
        return self.probe.to(torch.complex128 if measured.dtype == torch.float64 else torch.complex64)

    def loss(
        self, batch: Mapping[str, Tensor], *, canvas_shape: tuple[int, int], kind: str, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Training loss (all iterations, the last one most) and the loss of the last estimate alone."""
        estimates, placement, measured = self(batch, canvas_shape=canvas_shape, mask=mask)
        channels = batch["counts"].shape[1]
        eps = (EPS_COUNTS / batch["mean_counts"]).repeat_interleave(channels)[:, None, None]
        probe = self.probe_for(measured)
        losses = [
            LOSSES[kind](simulate(extract_patches(estimate, placement), probe), measured, eps=eps, mask=mask)
            for estimate in estimates
        ]
        earlier = sum(losses[:-1], start=torch.zeros_like(losses[-1]))
        return losses[-1] + EARLIER_ITERATIONS * earlier, losses[-1].detach()


def good_pixels(bad_pixels: NDArray[np.bool_] | None) -> Tensor | None:
    """Mask of good pixels as a float tensor with zero frequency at [0, 0], or None where all are good."""
    if bad_pixels is None or not np.any(bad_pixels):
        return None
    return to_corner(torch.from_numpy(~np.asarray(bad_pixels)).float())
