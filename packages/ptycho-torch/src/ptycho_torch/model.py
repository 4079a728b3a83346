"""Network and physics as one trainable model: from groups of counts to simulated patterns and their loss."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from ptycho_contracts.config import ModelConfig
from ptycho_contracts.physics import EARLIER_ITERATIONS, EPS_COUNTS
from ptycho_data.bundle_file import NETWORK
from torch import Tensor, nn

from ptycho_torch.losses import LOSSES, supervised_error
from ptycho_torch.network import build_network
from ptycho_torch.physics import (
    Placement,
    extract_patches,
    group_placement,
    normalised_intensity,
    simulate,
    squared_modulus,
    unit_probe,
)


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of a batch of groups.

    Attributes:
        total: Loss of all iterations on the diffraction patterns; the last one has the largest weight (TRN-1).
        last: Loss of the last estimate alone, detached.
        supervised: PHY-33 of all iterations in the same way (TRN-15); None if the batch has no truth.
        supervised_last: PHY-33 of the last estimate alone, detached, or None.
        patches: (B * C, N, N) complex, the last estimate at each pattern, detached.
    """

    total: Tensor
    last: Tensor
    supervised: Tensor | None
    supervised_last: Tensor | None
    patches: Tensor


class PtychoModel(nn.Module):
    """A network with the probe that it was trained for.

    Args:
        config: Architecture and channel count.
        probe: (modes, N, N) complex, any scale; kept with unit energy (a scan's mean counts normalise it).
    """

    probe: Tensor

    def __init__(self, config: ModelConfig, probe: NDArray[np.complex64]) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config)
        self.register_buffer("probe", unit_probe(torch.from_numpy(np.array(probe, np.complex64))))

    @property
    def infers_whole_canvas(self) -> bool:
        """Whether the network takes all patterns of a scan at once."""
        return bool(self.network.infers_whole_canvas)

    def probe_array(self) -> NDArray[np.complex64]:
        """(K, N, N) probe of unit energy."""
        probe: NDArray[np.complex64] = self.probe.cpu().numpy()
        return probe

    def weight_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The network's weights by their names in a bundle."""
        return {name: value.cpu().numpy() for name, value in self.network.state_dict(prefix=NETWORK).items()}

    def on(self, device: str) -> PtychoModel:
        """This model if it is on the device, else a copy there; this model stays where it is."""
        return self if self.probe.device == torch.device(device) else deepcopy(self).to(device)

    def with_probe(self, probe: NDArray[np.complex64]) -> PtychoModel:
        """The same network with another probe of unit energy; this model stays as it is."""
        other = copy(self)
        other._buffers = {**self._buffers, "probe": torch.from_numpy(probe).to(self.probe.device)}
        return other

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
        measured = normalised_intensity(counts, batch["mean_counts"][:, None, None, None]).reshape(-1, side, side)
        placement = group_placement(batch["coords_relative"], canvas_shape, side)
        # One member of every group per subset: on its own canvas each then moves as far as in a whole scan.
        first = torch.arange(groups, device=counts.device) * channels
        subsets = [first + channel for channel in range(channels)]
        estimates = self.network(
            measured.sqrt(), self.probe_for(measured), placement, subsets=subsets, canvases=groups, mask=mask
        )
        return estimates, placement, measured

    def uniform_loss(self, batch: Mapping[str, Tensor], *, kind: str, mask: Tensor | None = None) -> float:
        """Uniform-object baseline: loss of the best uniform object of a batch. A network that learned is below it."""
        counts = batch["counts"]
        channels, side = counts.shape[1], counts.shape[-1]
        measured = normalised_intensity(counts, batch["mean_counts"][:, None, None, None]).reshape(-1, side, side)
        eps = (EPS_COUNTS / batch["mean_counts"]).repeat_interleave(channels)[:, None, None]
        with torch.no_grad():
            probe = self.probe_for(measured)
            empty = simulate(torch.ones((1, side, side), dtype=probe.dtype, device=probe.device), probe)
            good = empty.expand_as(measured) * (1 if mask is None else mask)
            seen = (good * measured).sqrt() if kind == "amplitude" else measured * (1 if mask is None else mask)
            power = seen.sum() / good.sum()
            uniform = empty * (power.square() if kind == "amplitude" else power)
            return float(LOSSES[kind](uniform.expand_as(measured), measured, eps=eps, mask=mask))

    def probe_for(self, measured: Tensor) -> Tensor:
        """The probe in the precision of the measurements; ``module.double()`` does not change complex buffers."""
        return self.probe.to(torch.complex128 if measured.dtype == torch.float64 else torch.complex64)

    def loss(
        self, batch: Mapping[str, Tensor], *, canvas_shape: tuple[int, int], kind: str, mask: Tensor | None = None
    ) -> Losses:
        """Losses of a batch on its diffraction patterns, and on the true object where the batch holds it."""
        estimates, placement, measured = self(batch, canvas_shape=canvas_shape, mask=mask)
        channels = batch["counts"].shape[1]
        eps = (EPS_COUNTS / batch["mean_counts"]).repeat_interleave(channels)[:, None, None]
        probe = self.probe_for(measured)
        patches = [extract_patches(estimate, placement) for estimate in estimates]
        losses = [LOSSES[kind](simulate(seen, probe), measured, eps=eps, mask=mask) for seen in patches]
        errors = []
        if "truth" in batch:
            truth, power = batch["truth"].to(probe.dtype), squared_modulus(probe).sum(0)
            errors = [supervised_error(seen.reshape(truth.shape), truth, power / power.max()) for seen in patches]
        return Losses(
            total=_summed(losses),
            last=losses[-1].detach(),
            supervised=_summed(errors) if errors else None,
            supervised_last=errors[-1].detach() if errors else None,
            patches=patches[-1].detach(),
        )


def _summed(losses: list[Tensor]) -> Tensor:
    """Value of the last estimate, plus those of all earlier ones with smaller weights."""
    earlier = sum(losses[:-1], start=torch.zeros_like(losses[-1]))
    return losses[-1] + EARLIER_ITERATIONS * earlier
