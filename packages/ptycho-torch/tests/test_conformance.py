"""The conformance suite of ptycho-contracts and its golden vectors, on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import conformance
from ptycho_contracts.testing.network_cases import NetworkCase
from ptycho_data.canvas import CanvasGeometry, scan_sites
from ptycho_torch.losses import LOSSES
from ptycho_torch.model import PtychoModel
from ptycho_torch.physics import Placement, add_patches, extract_patches, good_pixels, simulate, to_corner

VECTORS = Path(__file__).resolve().parents[3] / "specs" / "vectors"


class TorchAdapter:
    """PyTorch as functions of NumPy arrays."""

    def extract(self, canvas: Any, positions_px: Any, N: int, origin_yx: Any) -> Any:
        sites = self._sites(positions_px, canvas.shape, N, origin_yx)
        return extract_patches(torch.from_numpy(canvas), sites).numpy()

    def add(self, patches: Any, positions_px: Any, shape: tuple[int, int], origin_yx: Any) -> Any:
        sites = self._sites(positions_px, shape, patches.shape[-1], origin_yx)
        return add_patches(torch.from_numpy(patches), sites).numpy()

    def extract_gradient(self, canvas: Any, positions_px: Any, upstream: Any, origin_yx: Any) -> Any:
        sites = self._sites(positions_px, canvas.shape, upstream.shape[-1], origin_yx)
        values = torch.from_numpy(canvas).requires_grad_()
        (torch.from_numpy(upstream).conj() * extract_patches(values, sites)).real.sum().backward()
        return values.grad.numpy()

    def simulate(self, patches: Any, probe: Any) -> Any:
        result = simulate(torch.from_numpy(patches), torch.from_numpy(probe))
        return torch.fft.fftshift(result, dim=(-2, -1)).numpy()

    def simulate_gradients(self, patches: Any, probe: Any, upstream: Any) -> tuple[Any, Any]:
        values = [torch.from_numpy(part).requires_grad_() for part in (patches, probe)]
        (simulate(*values) * to_corner(torch.from_numpy(upstream))).sum().backward()
        return values[0].grad.numpy(), values[1].grad.numpy()

    def loss(self, kind: str, simulated: Any, measured: Any, eps: float, good: Any) -> tuple[float, Any]:
        values = torch.from_numpy(simulated).requires_grad_()
        mask = None if good is None else torch.from_numpy(good).float()
        value = LOSSES[kind](values, torch.from_numpy(measured), eps=eps, mask=mask)
        value.backward()
        return value.item(), values.grad.numpy()

    def network(self, case: NetworkCase) -> tuple[list[Any], float, float, Mapping[str, Any]]:
        model = PtychoModel(case.config, case.probe)
        named = {f"network.{name}": weight for name, weight in model.network.named_parameters()}
        assert named.keys() == case.weights.keys()
        for name, weight in named.items():
            weight.data = torch.from_numpy(case.weights[name].copy())
        arrays = {"counts": case.counts, "coords_relative": case.coords_relative, "mean_counts": case.mean_counts}
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        options = {"canvas_shape": case.canvas_shape, "mask": good_pixels(case.bad_pixels)}
        estimates, _, _ = model(batch, **options)
        losses = model.loss(batch, kind=case.loss, **options)
        total, last = losses.total, losses.last
        total.backward()
        canvases = [estimate.detach().numpy().reshape(-1, *case.canvas_shape) for estimate in estimates]
        return canvases, total.item(), last.item(), {name: weight.grad.numpy() for name, weight in named.items()}

    @staticmethod
    def _sites(positions_px: Any, shape: tuple[int, int], N: int, origin_yx: Any) -> Placement:
        return Placement.of(scan_sites(positions_px, CanvasGeometry(np.asarray(origin_yx, float), tuple(shape)), N))


@pytest.mark.parametrize("check", conformance.checks(), ids=str)
def test_against_the_reference(check):
    """Values, adjoint, gradients, losses and network beside NumPy in complex128 (invariants 5, 8, 11, 12, 53)."""
    check.run(TorchAdapter())


@pytest.mark.parametrize("vector", conformance.corpus(VECTORS), ids=str)
def test_golden_vectors(vector):
    """The stored values of the NumPy reference are reproduced."""
    vector.run(TorchAdapter())


def test_an_empty_corpus_fails(tmp_path):
    """Vectors that are not there are no vectors that pass."""
    with pytest.raises(ContractError) as caught:
        conformance.corpus(tmp_path)
    assert caught.value.codes == ("conformance.corpus",)
