"""Small cases of the network ``unrolled``: weights, patterns and sites, with the results of the NumPy reference."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.config import DataConfig, ModelConfig, from_tables, to_dict
from ptycho_contracts.testing import reference, reference_network

_INPUTS = 5


@dataclass(frozen=True, eq=False)
class NetworkCase:
    """Groups for a network with given weights.

    Attributes:
        name: For test reports.
        config: Architecture ``unrolled``.
        weights: float32 by name as in a bundle, ``network.nets.0.in_conv.weight`` (out, in, kh, kw).
        probe: (K, N, N) complex64.
        counts: (B, C, N, N) float32, zero frequency at [N // 2, N // 2].
        coords_relative: (B, 1, 2, C) float32.
        mean_counts: (B,) float32.
        canvas_shape: (H, W) of one group canvas.
        bad_pixels: (N, N) bool.
        loss: Name of the loss.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    probe: NDArray[np.complex64]
    counts: NDArray[np.float32]
    coords_relative: NDArray[np.float32]
    mean_counts: NDArray[np.float32]
    canvas_shape: tuple[int, int]
    bad_pixels: NDArray[np.bool_]
    loss: str

    def expected(self, weights: Mapping[str, Any] | None = None) -> tuple[NDArray[np.complex128], float, float]:
        """Estimates (iteration, B, H, W), training loss and last loss of the NumPy reference."""
        given = {
            name.removeprefix("network."): np.asarray(value, np.float64)
            for name, value in (weights or self.weights).items()
        }
        good = ~self.bad_pixels
        means = self.mean_counts.astype(np.float64)
        estimates = [
            reference_network.unrolled(
                given,
                self.counts[group].astype(np.float64),
                self.probe,
                self.coords_relative[group, 0],
                means[group],
                iterations=self.config.iterations,
                passes=self.config.passes,
                canvas_shape=self.canvas_shape,
                good=good,
            )
            for group in range(len(self.counts))
        ]
        total, last = reference_network.training_loss(
            estimates,
            self.counts.astype(np.float64),
            self.probe,
            self.coords_relative,
            means,
            loss=self.loss,
            good=good,
        )
        return np.stack(estimates, axis=1), total, last

    def direction(self, name: str) -> NDArray[np.float64]:
        """A fixed direction of one weight, of norm 1."""
        result = np.random.default_rng(zlib.crc32(name.encode())).normal(size=self.weights[name].shape)
        return result / np.linalg.norm(result)

    def slopes(self, *, step: float = 1e-5) -> dict[str, float]:
        """Derivative of the NumPy reference's training loss along each weight's direction, by central differences."""
        result = {}
        for name, value in self.weights.items():
            ends = []
            for sign in (1, -1):
                moved = {**self.weights, name: value.astype(np.float64) + sign * step * self.direction(name)}
                ends.append(self.expected(moved)[1])
            result[name] = (ends[0] - ends[1]) / (2 * step)
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays for an ``.npz`` file."""
        tables = {"data": to_dict(self.config.data), "model": to_dict(self.config)}
        return {
            "config": np.array(json.dumps(tables)),
            "loss": np.array(self.loss),
            "probe": self.probe,
            "counts": self.counts,
            "coords_relative": self.coords_relative,
            "mean_counts": self.mean_counts,
            "canvas_shape": np.array(self.canvas_shape),
            "bad_pixels": self.bad_pixels,
            **{f"weight:{name}": value for name, value in self.weights.items()},
        }

    @classmethod
    def from_arrays(cls, held: Mapping[str, NDArray[Any]]) -> NetworkCase:
        """Inverse of :meth:`to_arrays`."""
        height, width = (int(side) for side in held["canvas_shape"])
        names = ("probe", "counts", "coords_relative", "mean_counts", "bad_pixels")
        return cls(
            name="golden",
            config=from_tables(json.loads(str(held["config"])))[ModelConfig],
            loss=str(held["loss"]),
            weights={name.removeprefix("weight:"): value for name, value in held.items() if name.startswith("weight:")},
            canvas_shape=(height, width),
            **{name: held[name] for name in names},
        )


def small_cases() -> list[NetworkCase]:
    """Odd and even N, one and several modes, one group and a prime number of them, bad pixels, both losses."""
    return [
        network_case("N 8, 1 mode, 1 group", N=8, modes=1, groups=1, gridsize=2, bad=False, loss="amplitude"),
        network_case(
            "N 9, 2 modes, 3 groups, bad pixels", N=9, modes=2, groups=3, gridsize=2, bad=True, loss="poisson"
        ),
        network_case("N 12, 3 modes, 5 groups of 1", N=12, modes=3, groups=5, gridsize=1, bad=False, loss="amplitude"),
    ]


def network_case(
    name: str, *, N: int, modes: int, groups: int, gridsize: int, bad: bool, loss: str, seed: int = 0
) -> NetworkCase:
    """A case with random weights, a diffuse probe, which leaves no detector pixel dark, and Poisson counts."""
    rng = np.random.default_rng((N, modes, groups, seed))
    config = ModelConfig(
        data=DataConfig(N=N, gridsize=gridsize, n_groups=groups), iterations=2, passes=2, width=2, modes=modes
    )
    C = config.C_model
    axis = (np.arange(N) - N // 2) / N
    spot = np.exp(-(axis[:, None] ** 2 + axis**2) / 0.08)
    probe = spot * np.exp(2j * np.pi * rng.random((modes, N, N))) * 0.6 ** np.arange(modes)[:, None, None]
    probe = reference.normalised_probe(probe, 1.0).astype(np.complex64)
    relative = np.round(rng.uniform(-3, 3, (groups, 1, 2, C)) * 64) / 64
    relative -= relative.mean(-1, keepdims=True)
    side = int(4 * np.ceil((N + 2 * np.ceil(np.abs(relative).max()) + 2) / 4))
    shape = (side, side + 4)
    truth = 1 + 0.3 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    means = rng.uniform(2e3, 2e4, groups)
    counts = np.stack(
        [
            rng.poisson(
                mean
                * reference.simulate_counts(
                    reference.extract_patches(truth, -relative[group, 0].T, N, (-(shape[0] // 2), -(shape[1] // 2))),
                    probe,
                )
            )
            for group, mean in enumerate(means)
        ]
    )
    return NetworkCase(
        name=name,
        config=config,
        weights=_weights(config, rng),
        probe=probe,
        counts=counts.astype(np.float32),
        coords_relative=relative.astype(np.float32),
        mean_counts=means.astype(np.float32),
        canvas_shape=shape,
        bad_pixels=(rng.random((N, N)) < 0.1) if bad else np.zeros((N, N), bool),
        loss=loss,
    )


def _weights(config: ModelConfig, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    w = config.width
    layers = {
        "in_conv": (2 * w, 4 * _INPUTS, 3),
        "fine": (2 * w, 2 * w, 3),
        "down": (4 * w, 2 * w, 3),
        "coarse": (4 * w, 4 * w, 3),
        "up": (2 * w, 4 * w, 1),
        "merge": (2 * w, 2 * w, 3),
        "out_conv": (8, 2 * w, 3),
    }
    result = {}
    for number in range(config.iterations):
        for layer, (out, into, side) in layers.items():
            scale = 0.5 / np.sqrt(into * side**2)
            name = f"network.nets.{number}.{layer}"
            result[f"{name}.weight"] = rng.normal(0, scale, (out, into, side, side)).astype(np.float32)
            result[f"{name}.bias"] = rng.normal(0, 0.05, out).astype(np.float32)
    return result
