"""The conformance suite of ptycho-contracts and its golden vectors, on TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import conformance
from ptycho_contracts.testing.network_cases import NetworkCase
from ptycho_data.canvas import CanvasGeometry, scan_sites
from ptycho_tf.framework import tf
from ptycho_tf.layers import put_weights
from ptycho_tf.losses import LOSSES
from ptycho_tf.model import PtychoModel
from ptycho_tf.physics import Placement, add_patches, extract_patches, good_pixels, simulate, to_centre, to_corner

VECTORS = Path(__file__).resolve().parents[3] / "specs" / "vectors"


class TensorFlowAdapter:
    """TensorFlow as functions of NumPy arrays."""

    def extract(self, canvas: Any, positions_px: Any, N: int, origin_yx: Any) -> Any:
        return extract_patches(tf.constant(canvas), self._sites(positions_px, canvas.shape, N, origin_yx)).numpy()

    def add(self, patches: Any, positions_px: Any, shape: tuple[int, int], origin_yx: Any) -> Any:
        sites = self._sites(positions_px, shape, patches.shape[-1], origin_yx)
        return add_patches(tf.constant(patches), sites).numpy()

    def extract_gradient(self, canvas: Any, positions_px: Any, upstream: Any, origin_yx: Any) -> Any:
        sites = self._sites(positions_px, canvas.shape, upstream.shape[-1], origin_yx)
        values = tf.constant(canvas)
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.reduce_sum(tf.math.real(np.conj(upstream) * extract_patches(values, sites)))
        return tape.gradient(total, values).numpy()

    def simulate(self, patches: Any, probe: Any) -> Any:
        return to_centre(simulate(tf.constant(patches), tf.constant(probe))).numpy()

    def simulate_gradients(self, patches: Any, probe: Any, upstream: Any) -> tuple[Any, Any]:
        values = [tf.constant(patches), tf.constant(probe)]
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.reduce_sum(simulate(*values) * to_corner(tf.constant(upstream)))
        by_patches, by_probe = tape.gradient(total, values)
        return by_patches.numpy(), by_probe.numpy()

    def loss(self, kind: str, simulated: Any, measured: Any, eps: float, good: Any) -> tuple[float, Any]:
        values = tf.constant(simulated)
        mask = None if good is None else tf.constant(good, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = LOSSES[kind](values, tf.constant(measured), eps=eps, mask=mask)
        return float(value), tape.gradient(value, values).numpy()

    def network(self, case: NetworkCase) -> tuple[list[Any], float, float, Mapping[str, Any]]:
        model = PtychoModel(case.config, case.probe)
        assert model.weights.keys() == case.weights.keys()
        put_weights(model.network, case.weights, "network.")
        options = {"canvas_shape": case.canvas_shape, "mask": good_pixels(case.bad_pixels)}
        arrays = {"counts": case.counts, "coords_relative": case.coords_relative, "mean_counts": case.mean_counts}

        batch = {name: tf.constant(array) for name, array in arrays.items()}
        estimates, _, _ = model(batch, **options)
        with tf.GradientTape() as tape:
            losses = model.loss(batch, kind=case.loss, **options)
            total, last = losses.total, losses.last
        gradients = tape.gradient(total, model.weights)
        canvases = [estimate.numpy().reshape(-1, *case.canvas_shape) for estimate in estimates]
        return canvases, float(total), float(last), {name: value.numpy() for name, value in gradients.items()}

    @staticmethod
    def _sites(positions_px: Any, shape: tuple[int, int], N: int, origin_yx: Any) -> Placement:
        return Placement.of(scan_sites(positions_px, CanvasGeometry(np.asarray(origin_yx, float), tuple(shape)), N))


@pytest.mark.parametrize("check", conformance.checks(), ids=str)
def test_against_the_reference(check):
    """Values, adjoint, gradients, losses and network beside NumPy in complex128 (invariants 5, 8, 11, 12, 53)."""
    check.run(TensorFlowAdapter())


@pytest.mark.parametrize("vector", conformance.corpus(VECTORS), ids=str)
def test_golden_vectors(vector):
    """The stored values of the NumPy reference are reproduced."""
    vector.run(TensorFlowAdapter())


@pytest.mark.parametrize("check", [check for check in conformance.checks() if "extract" in str(check)], ids=str)
def test_patches_are_read_as_on_a_gpu(check, monkeypatch):
    """PHY-4: what is read by a gather where there is a GPU, here on the CPU."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    check.run(TensorFlowAdapter())


def test_an_empty_corpus_fails(tmp_path):
    """Vectors that are not there are no vectors that pass."""
    with pytest.raises(ContractError) as caught:
        conformance.corpus(tmp_path)
    assert caught.value.codes == ("conformance.corpus",)
