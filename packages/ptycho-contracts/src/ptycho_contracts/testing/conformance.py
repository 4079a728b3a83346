"""Checks that every backend passes in a process of its own: values, adjoints, gradients, losses, network.

A backend is given as an :class:`Adapter`: plain functions from NumPy arrays to NumPy arrays, in single precision.
They are compared with the NumPy reference in complex128, on sizes that failed before, and with the golden vectors
of specs/vectors, which the NumPy reference produced once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.testing import reference
from ptycho_contracts.testing.network_cases import NetworkCase, small_cases

Array = NDArray[Any]

FORWARD, GRADIENT, LOSS = 1e-5, 1e-4, 1e-6
"""Relative tolerances: the norm of the difference over the norm of the expected values."""

KINDS = ("physics", "losses", "network")
"""Golden vectors that a corpus must hold, by the first word of their file names."""


class Adapter(Protocol):
    """A backend as functions of NumPy arrays. Inputs are float32, complex64; positions float64 ``[x, y]``.

    Gradients are those of a real function f of complex z as d f / d Re z + i d f / d Im z.
    """

    def extract(self, canvas: Array, positions_px: Array, N: int, origin_yx: Array) -> Array:
        """(M, N, N) patches of a canvas (H, W)."""

    def add(self, patches: Array, positions_px: Array, shape: tuple[int, int], origin_yx: Array) -> Array:
        """Canvas (H, W) of the sum of (M, N, N) patches."""

    def extract_gradient(self, canvas: Array, positions_px: Array, upstream: Array, origin_yx: Array) -> Array:
        """Gradient by the canvas of ``Re sum conj(upstream) extract(canvas)``."""

    def simulate(self, patches: Array, probe: Array) -> Array:
        """(M, N, N) intensities, zero frequency at [N // 2, N // 2]."""

    def simulate_gradients(self, patches: Array, probe: Array, upstream: Array) -> tuple[Array, Array]:
        """Gradients by patches and probe of ``sum upstream simulate(patches, probe)``."""

    def loss(self, kind: str, simulated: Array, measured: Array, eps: float, good: Array | None) -> tuple[float, Array]:
        """A loss and its gradient by the simulated intensities."""

    def network(self, case: NetworkCase) -> tuple[list[Array], float, float, Mapping[str, Array]]:
        """Estimates (B, H, W) by iteration, training loss, last loss, and the training loss' gradient by weight."""


@dataclass(frozen=True)
class Check:
    """One check; ``str`` is its name for a test report."""

    name: str
    run: Callable[[Adapter], None]

    def __str__(self) -> str:
        return self.name


def checks() -> list[Check]:
    """All checks against the NumPy reference: odd and even N, one to three modes, batches of 1 and of primes, zeros."""
    checks = []
    for N, modes, batch in ((8, 1, 1), (9, 2, 7), (16, 3, 5), (17, 1, 13), (31, 2, 1)):
        for name, function in (
            ("extract and add", _extract_and_add),
            ("adjoint", _adjoint),
            ("gradient of extraction", _extract_gradient),
            ("simulate", _simulate),
            ("gradients of simulation", _simulate_gradients),
            ("alone as in a batch", _alone),
        ):
            checks.append(Check(f"{name}, N {N}, modes {modes}, batch {batch}", _bound(function, N, modes, batch)))
        for kind in ("amplitude", "poisson"):
            checks.append(Check(f"{kind} loss, N {N}, batch {batch}", _bound(_loss, N, batch, kind)))
    checks += [Check(f"{kind} loss of 2^18 values", _bound(_long_loss, kind)) for kind in ("amplitude", "poisson")]
    checks += [Check("dark object and probe", _dark)]
    checks += [Check(f"{kind} loss of no photons", _bound(_dark_loss, kind)) for kind in ("amplitude", "poisson")]
    checks += [Check(f"network: {case.name}", _bound(_network, case)) for case in small_cases()]
    return checks


def corpus(folder: Path) -> list[Check]:
    """A check for each golden vector.

    Raises:
        ContractError: no vectors at all, or none of one kind.
    """
    paths = sorted(folder.glob("*.npz"))
    missing = [kind for kind in KINDS if not any(path.name.startswith(kind) for path in paths)]
    if missing:
        raise ContractError(
            Problem(
                str(folder),
                "conformance.corpus",
                f"golden vectors of each kind: {', '.join(KINDS)}",
                f"none of {', '.join(missing)}",
                "make them with specs/vectors/make.py",
            )
        )
    return [Check(path.stem, _bound(_golden, path)) for path in paths]


def distance(found: Array, expected: Array) -> float:
    """Norm of the difference over the norm of the expected values; the norm of the result if that is 0."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    assert np.isfinite(found).all(), "NaN or infinite values"
    scale = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found.astype(expected.dtype) - expected)) / (scale or 1.0)


def close(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Raise AssertionError, with the relative difference, if two arrays differ by more than the tolerance."""
    figure = distance(found, expected)
    assert figure <= tolerance, f"{what}: relative difference {figure:.3g}, tolerance {tolerance:g}"


def _bound(function: Callable[..., None], *arguments: Any) -> Callable[[Adapter], None]:
    return lambda adapter: function(adapter, *arguments)


def _complex(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def _scene(N: int, modes: int, batch: int) -> tuple[Any, ...]:
    """Generator, positions at a large offset, origin and shape of their canvas; exact in float32."""
    rng = np.random.default_rng((N, modes, batch))
    positions = 1e5 + np.round(rng.uniform(-9, 9, (batch, 2)) * 256) / 256
    origin, shape = reference.canvas_geometry(positions, N)
    return rng, positions, origin, shape


def _extract_and_add(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    rng, positions, origin, shape = _scene(N, modes, batch)
    canvas, patches = _complex(rng, shape), _complex(rng, (batch, N, N))
    result = adapter.extract(canvas, positions, N, origin)
    close(result, reference.extract_patches(canvas, positions, N, origin), FORWARD, "extract (PHY-4)")
    result = adapter.add(patches, positions, shape, origin)
    close(result, reference.scatter_add(patches, positions, shape, origin), FORWARD, "add (PHY-5)")


def _adjoint(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    rng, positions, origin, shape = _scene(N, modes, batch)
    canvas, patches = _complex(rng, shape), _complex(rng, (batch, N, N))
    left = np.vdot(patches, adapter.extract(canvas, positions, N, origin))
    right = np.vdot(adapter.add(patches, positions, shape, origin), canvas)
    scale = float(np.linalg.norm(patches) * np.linalg.norm(canvas))
    assert abs(left - right) <= FORWARD * scale, f"<p, extract(O)> = {left}, <add(p), O> = {right} (PHY-5)"


def _extract_gradient(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    rng, positions, origin, shape = _scene(N, modes, batch)
    canvas, upstream = _complex(rng, shape), _complex(rng, (batch, N, N))
    result = adapter.extract_gradient(canvas, positions, upstream, origin)
    close(result, reference.scatter_add(upstream, positions, shape, origin), GRADIENT, "gradient of extract")


def _simulate(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    rng, *_ = _scene(N, modes, batch)
    patches, probe = _complex(rng, (batch, N, N)), _complex(rng, (modes, N, N))
    result = adapter.simulate(patches, probe)
    close(result, reference.simulate_counts(patches, probe), FORWARD, "simulate (PHY-8)")


def _simulate_gradients(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    rng, *_ = _scene(N, modes, batch)
    patches, probe = _complex(rng, (batch, N, N)), _complex(rng, (modes, N, N))
    upstream = rng.normal(size=(batch, N, N)).astype(np.float32)
    by_patches, by_probe = adapter.simulate_gradients(patches, probe, upstream)
    expected_patches, expected_probe = intensity_gradients(patches, probe, upstream)
    close(by_patches, expected_patches, GRADIENT, "gradient of simulate by the patches")
    close(by_probe, expected_probe, GRADIENT, "gradient of simulate by the probe")


def intensity_gradients(patches: Array, probe: Array, upstream: Array) -> tuple[Array, Array]:
    """Of ``sum u |F(P O)|^2``, by O and P: ``2 conj(P) F^-1[u psi]`` summed over modes, and likewise for P."""
    patches, probe = np.asarray(patches, np.complex128), np.asarray(probe, np.complex128)
    wavefields = reference.far_field(patches[:, None] * probe)
    back = np.fft.ifft2(np.fft.ifftshift(wavefields * upstream[:, None], axes=(-2, -1)), norm="ortho")
    return 2 * (probe.conj() * back).sum(1), 2 * (patches.conj()[:, None] * back).sum(0)


def _alone(adapter: Adapter, N: int, modes: int, batch: int) -> None:
    """Invariant 8: the result of a pattern does not depend on its batch."""
    rng, *_ = _scene(N, modes, batch)
    patches, probe = _complex(rng, (batch, N, N)), _complex(rng, (modes, N, N))
    together = adapter.simulate(patches, probe)
    for number in range(batch):
        close(adapter.simulate(patches[number : number + 1], probe)[0], together[number], FORWARD, f"pattern {number}")


def loss_and_gradient(
    kind: str, simulated: Array, measured: Array, eps: float, good: Array | None
) -> tuple[float, Array]:
    """A loss of the NumPy reference and its gradient by I: ``1 - sqrt((n + eps) / (I + eps))`` (amplitude) or
    ``1 - (n + eps) / (I + eps)`` (Poisson), over sum n, at good pixels."""
    function = reference.amplitude_loss if kind == "amplitude" else reference.poisson_loss
    I, n = np.asarray(simulated, np.float64), np.asarray(measured, np.float64)  # noqa: E741
    ratio = (n + eps) / (I + eps)
    slope = 1 - (np.sqrt(ratio) if kind == "amplitude" else ratio)
    weight = np.ones(I.shape[-2:]) if good is None else np.asarray(good, np.float64)
    return function(I, n, eps, good), slope * weight / (n * weight).sum()


def _loss(adapter: Adapter, N: int, batch: int, kind: str) -> None:
    rng = np.random.default_rng((N, batch))
    simulated = rng.gamma(0.5, 20, (batch, N, N)).astype(np.float32)
    measured = rng.poisson(simulated).astype(np.float32)
    simulated[:, 0], measured[:, 1] = 0, 0
    measured[0, 0, 0] = 1e5  # far from the simulated value: log1p(I / n - 1) would keep no digit
    simulated[:, 2], measured[:, 2] = 0, 0
    for good in (None, rng.random((N, N)) < 0.8):
        value, gradient = adapter.loss(kind, simulated, measured, EPS_COUNTS, good)
        expected, expected_gradient = loss_and_gradient(kind, simulated, measured, EPS_COUNTS, good)
        close(np.array(value), np.array(expected), LOSS, f"{kind} loss (PHY-16, PHY-17)")
        close(gradient, expected_gradient, GRADIENT, f"gradient of the {kind} loss")
    value, slope = adapter.loss(kind, measured, measured, EPS_COUNTS, None)
    assert abs(value) <= LOSS, f"{kind} loss at I = n is {value} (PHY-20)"
    assert np.abs(slope).max() * measured.sum() <= GRADIENT, f"{kind} loss has a slope at I = n"


def _long_loss(adapter: Adapter, kind: str) -> None:
    """A sum of many small differences keeps its digits in single precision."""
    rng = np.random.default_rng(64)
    mean = rng.gamma(0.05, 20, (64, 64, 64))
    measured = rng.poisson(mean).astype(np.float32)
    simulated = (mean * np.exp(0.01 * rng.normal(size=mean.shape))).astype(np.float32)
    value, _ = adapter.loss(kind, simulated, measured, EPS_COUNTS, None)
    expected, _ = loss_and_gradient(kind, simulated, measured, EPS_COUNTS, None)
    close(np.array(value), np.array(expected), LOSS, f"{kind} loss (PHY-16, PHY-17)")


def _dark_loss(adapter: Adapter, kind: str) -> None:
    """Invariant 53, PHY-18."""
    dark = np.zeros((2, 5, 5), np.float32)
    value, gradient = adapter.loss(kind, dark, dark, EPS_COUNTS, None)
    assert value == 0, f"{kind} loss of nothing is {value}"
    assert np.isfinite(gradient).all()


def _dark(adapter: Adapter) -> None:
    """Invariant 53: values and gradients at zero are zero, not NaN."""
    rng = np.random.default_rng(0)
    full, none = _complex(rng, (2, 9, 9)), np.zeros((2, 9, 9), np.complex64)
    upstream = rng.normal(size=(2, 9, 9)).astype(np.float32)
    for patches, probe in ((none, full), (full, none), (none, none)):
        assert not adapter.simulate(patches, probe).any()
        for mine, theirs in zip(
            adapter.simulate_gradients(patches, probe, upstream),
            intensity_gradients(patches, probe, upstream),
            strict=True,
        ):
            close(mine, theirs, GRADIENT, "gradient at a dark object or probe")


def _network(adapter: Adapter, case: NetworkCase) -> None:
    estimates, total, last = case.expected()
    _compare_network(adapter, case, estimates, total, last, case.slopes())


def _compare_network(
    adapter: Adapter, case: NetworkCase, estimates: Array, total: float, last: float, slopes: Mapping[str, float]
) -> None:
    result, result_total, result_last, gradients = adapter.network(case)
    for number, (mine, expected) in enumerate(zip(result, estimates, strict=True)):
        close(mine, expected, FORWARD, f"estimate {number} (NET-5, NET-6)")
    close(np.array([result_total, result_last]), np.array([total, last]), LOSS, "training loss (TRN-1)")
    assert set(gradients) == set(case.weights), "every weight has a gradient (NET-11)"
    for name, slope in slopes.items():
        direction = case.direction(name)
        rise = float(np.vdot(direction, gradients[name].astype(np.float64)))
        scale = float(np.linalg.norm(direction) * np.linalg.norm(gradients[name])) or 1.0
        assert abs(rise - slope) <= GRADIENT * scale, f"gradient of {name}: slope {rise:.6g} instead of {slope:.6g}"


def _golden(adapter: Adapter, path: Path) -> None:
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    provenance = json.loads(str(held.pop("provenance")))
    assert provenance["made_by"], "golden vectors say where they come from"
    kind = path.stem.split("-")[0]
    for run in _GOLDEN[kind](adapter, held):
        close(*run)


def _golden_physics(adapter: Adapter, held: Mapping[str, Array]) -> Iterator[tuple[Array, Array, float, str]]:
    canvas, positions, probe, origin = (held[name] for name in ("canvas", "positions_px", "probe", "origin_yx"))
    patches = adapter.extract(canvas, positions, probe.shape[-1], origin)
    yield patches, held["patches"], FORWARD, "patches"
    back = adapter.add(held["patches"].astype(np.complex64), positions, canvas.shape, origin)
    yield back, held["placed"], FORWARD, "placed"
    yield adapter.simulate(patches, probe), held["intensities"], FORWARD, "intensities"
    by_patches, by_probe = adapter.simulate_gradients(patches, probe, held["upstream"])
    yield by_patches, held["gradient_patches"], GRADIENT, "gradient by the patches"
    yield by_probe, held["gradient_probe"], GRADIENT, "gradient by the probe"


def _golden_losses(adapter: Adapter, held: Mapping[str, Array]) -> Iterator[tuple[Array, Array, float, str]]:
    for kind in ("amplitude", "poisson"):
        value, gradient = adapter.loss(kind, held["simulated"], held["measured"], float(held["eps"]), held["good"])
        yield np.array(value), held[kind], LOSS, f"{kind} loss"
        yield gradient, held[f"gradient_{kind}"], GRADIENT, f"gradient of the {kind} loss"


def _golden_network(adapter: Adapter, held: Mapping[str, Array]) -> Iterator[tuple[Array, Array, float, str]]:
    case = NetworkCase.from_arrays(held)
    slopes = {name.removeprefix("slope:"): float(value) for name, value in held.items() if name.startswith("slope:")}
    _compare_network(adapter, case, held["estimates"], float(held["total"]), float(held["last"]), slopes)
    yield from ()


_GOLDEN = {"physics": _golden_physics, "losses": _golden_losses, "network": _golden_network}
