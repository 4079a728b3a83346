"""A whole simulated scan in one call (specs/simulation.md, SIM-13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem, nearest
from ptycho_contracts.records import Scan

from ptycho_data.simulate.counting import Progress, simulate_scan
from ptycho_data.simulate.objects import AMPLITUDE_RANGE, OBJECTS, PHASE_RANGE_RAD, Range
from ptycho_data.simulate.probes import PROBES
from ptycho_data.simulate.scans import SCANS, place


def simulate(
    *,
    object_kind: str = "lines",
    probe_kind: str = "defocused_disc",
    scan_kind: str = "jittered",
    N: int = 64,
    n_patterns: int = 1500,
    step_px: float = 5.0,
    photons_per_pattern: float = 1e6,
    seed: int = 0,
    modes: int = 1,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range_rad: Range = PHASE_RANGE_RAD,
    probe: NDArray[Any] | None = None,
    poisson: bool = True,
    background_counts: float = 0.0,
    progress: Progress | None = None,
) -> Scan:
    """Simulate a scan of a random object.

    Args:
        object_kind: A name in :data:`ptycho_data.simulate.OBJECTS`.
        probe_kind: A name in :data:`ptycho_data.simulate.PROBES`; unused if ``probe`` is given.
        scan_kind: A name in :data:`ptycho_data.simulate.SCANS`.
        N: Side of a pattern in pixels; a given probe decides it.
        n_patterns: Number of patterns.
        step_px: Distance of neighbouring positions.
        photons_per_pattern: Mean expected counts per pattern, without background.
        seed: Seed of object, positions and noise, each by a stream of its own.
        modes: Incoherent modes of the made probe.
        amplitude_range: Least and largest amplitude of the object, within [0, 1].
        phase_range_rad: Least and largest phase of the object.
        probe: (N, N) or (mode, N, N) complex, such as from :func:`ptycho_data.simulate.measured`.
        poisson: Draw photon noise.
        background_counts: Expected background counts per pixel.
        progress: Called with stage name, patterns done, patterns in all.

    Returns:
        The scan with its truth, as of :func:`~ptycho_data.simulate.simulate_scan`; the recipe is
        in ``metadata["simulation"]``.

    Raises:
        ContractError: unknown kinds or illegal values.
    """
    _check_kinds({"object_kind": object_kind, "probe_kind": probe_kind, "scan_kind": scan_kind})
    object_seed, scan_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    beam = PROBES[probe_kind](N, modes=modes) if probe is None else np.asarray(probe)
    drawn = {"seed": scan_seed} if scan_kind == "jittered" else {}
    positions, shape = place(SCANS[scan_kind](n_patterns, step_px=step_px, **drawn), beam.shape[-1])
    obj = OBJECTS[object_kind](
        shape, seed=object_seed, amplitude_range=amplitude_range, phase_range_rad=phase_range_rad
    )
    scan = simulate_scan(
        obj,
        beam,
        positions,
        photons_per_pattern=photons_per_pattern,
        seed=noise_seed,
        poisson=poisson,
        background_counts=background_counts,
        progress=progress,
    )
    recipe = {
        "object_kind": object_kind,
        "probe_kind": "given" if probe is not None else probe_kind,
        "scan_kind": scan_kind,
        "step_px": float(step_px),
        "seed": int(seed),
        "amplitude_range": list(amplitude_range),
        "phase_range_rad": list(phase_range_rad),
    }
    metadata = {**scan.metadata, "simulation": {**recipe, **scan.metadata["simulation"]}}
    return replace(scan, metadata=metadata)


def _check_kinds(kinds: Mapping[str, str]) -> None:
    tables: Mapping[str, Mapping[str, Any]] = {"object_kind": OBJECTS, "probe_kind": PROBES, "scan_kind": SCANS}
    problems = [
        Problem(
            option, "simulate.kind", "one of " + ", ".join(tables[option]), repr(kind), nearest(kind, tables[option])
        )
        for option, kind in kinds.items()
        if kind not in tables[option]
    ]
    if problems:
        raise ContractError(problems)
