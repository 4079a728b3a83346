"""Make the golden vectors from the NumPy reference: ``python specs/vectors/make.py``.

Each file holds inputs in single precision, what the complex128 reference makes of them, and its provenance.
They are made anew only when the specification changes; the change is a line in the changelog of ptycho-contracts.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.testing import reference
from ptycho_contracts.testing.conformance import intensity_gradients, loss_and_gradient
from ptycho_contracts.testing.network_cases import network_case

HERE = Path(__file__).parent
SEED = 20250101


def physics(N: int, modes: int, patterns: int) -> dict[str, Any]:
    """Extraction, placing and forward model with gradients, at fractional positions far from the origin."""
    rng = np.random.default_rng((SEED, N, modes, patterns))
    positions = np.round(rng.uniform(-7, 7, (patterns, 2)) * 1024) / 1024 - 5e4
    origin, shape = reference.canvas_geometry(positions, N)
    canvas = (1 + 0.4 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)
    probe = (rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))).astype(np.complex64)
    upstream = rng.normal(size=(patterns, N, N)).astype(np.float32)
    patches = reference.extract_patches(canvas, positions, N, origin)
    by_patches, by_probe = intensity_gradients(patches, probe, upstream)
    return {
        "canvas": canvas,
        "positions_px": positions,
        "origin_yx": origin,
        "probe": probe,
        "upstream": upstream,
        "patches": patches,
        "placed": reference.scatter_add(patches, positions, shape, origin),
        "intensities": reference.simulate_counts(patches, probe),
        "gradient_patches": by_patches,
        "gradient_probe": by_probe,
    }


def losses(N: int, patterns: int) -> dict[str, Any]:
    """Both losses with gradients: dark pixels, bad pixels, counts from 0 to thousands."""
    rng = np.random.default_rng((SEED, N, patterns))
    simulated = rng.gamma(0.3, 50, (patterns, N, N)).astype(np.float32)
    measured = rng.poisson(rng.gamma(0.3, 50, (patterns, N, N))).astype(np.float32)
    simulated[0, 0], measured[0, :2] = 0, 0
    held: dict[str, Any] = {"simulated": simulated, "measured": measured, "good": rng.random((N, N)) < 0.9, "eps": 1e-3}
    for kind in ("amplitude", "poisson"):
        held[kind], held[f"gradient_{kind}"] = loss_and_gradient(kind, simulated, measured, 1e-3, held["good"])
    return held


def network(**options: Any) -> dict[str, Any]:
    """Estimates and training loss of the network, and the loss' slope along one direction of each weight."""
    case = network_case("golden", seed=SEED, **options)
    estimates, total, last = case.expected()
    slopes = {f"slope:{name}": np.array(value) for name, value in case.slopes().items()}
    return {**case.to_arrays(), "estimates": estimates, "total": total, "last": last, **slopes}


def main() -> None:
    """Write all vectors."""
    made = {
        "physics-even": (physics(16, 2, 5), "PHY-4, PHY-5, PHY-8"),
        "physics-odd": (physics(15, 3, 7), "PHY-4, PHY-5, PHY-8"),
        "losses": (losses(12, 3), "PHY-9, PHY-16, PHY-17"),
        "network-even": (
            network(N=16, modes=1, groups=3, gridsize=2, bad=False, loss="amplitude"),
            "NET-5 to 7, TRN-1",
        ),
        "network-odd": (network(N=11, modes=2, groups=2, gridsize=2, bad=True, loss="poisson"), "NET-5 to 7, TRN-1"),
    }
    for name, (held, clauses) in made.items():
        provenance = {
            "made_by": "specs/vectors/make.py",
            "seed": SEED,
            "clauses": clauses,
            "reference": "NumPy, complex128",
            "ptycho-contracts": version("ptycho-contracts"),
            "numpy": version("numpy"),
        }
        np.savez_compressed(HERE / f"{name}.npz", provenance=np.array(json.dumps(provenance)), **held)


if __name__ == "__main__":
    main()
