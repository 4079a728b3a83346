"""Corrections of a scan whose file says everything itself (specs/files.md, DOOR-9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.records import Scan

from ptycho_data.files.door.applied import Images, image_of, selected
from ptycho_data.files.door.detector import Corrected, corrected
from ptycho_data.files.door.geometry import scalars_of
from ptycho_data.files.door.positions import turned
from ptycho_data.files.door.told import told
from ptycho_data.files.interpret.assemble import mean_photons

CORRECTIONS = frozenset(
    {"select", "dark", "flat", "threshold", "mask", "centre", "crop", "bin", "pad", "turn", "rotate"}
)
"""Options that any scan can take; the others tell how to read a file."""


SET_UP = frozenset({"energy", "kv", "distance", "detector_pixel", "object_pixel"})
"""Options that a scan with positions in pixels can take, too."""


def with_set_up(scan: Scan, options: ImportOptions) -> Scan:
    """The scan with the geometry that the options tell, which takes precedence over its own.

    Raises:
        ContractError: illegal quantities, or scalars that contradict each other.
    """
    tables = told({"geometry": scan.metadata.get("geometry", {})}, options)
    if not SET_UP & set(options.given):
        return scan
    where, N = str(scan.metadata.get("source", "scan")), scan.N
    geometry = scalars_of(tables.get("geometry", {}), N=N, side=N, window=N, binned=1, where=where)
    return replace(scan, metadata={**scan.metadata, "geometry": geometry})


def corrected_scan(scan: Scan, options: ImportOptions, images: Images) -> Scan:
    """The scan with the corrections of the options; its truth stays only if nothing moves.

    Raises:
        ContractError: corrections that cannot be.
    """
    if not options.given:
        return scan
    tables = told({}, options)
    kept = selected(scan.measurements, tables.get("patterns", {}).get("select"))
    done = corrected(
        scan.measurements[kept],
        scan.bad_pixels,
        tables.get("detector", {}),
        zero_frequency="centre",
        dark=None if images.dark is None else image_of(images.dark),
        flat=None if images.flat is None else image_of(images.flat),
        mask=None if images.mask is None else image_of(images.mask) != 0,
        is_amplitude=lambda *_: scan.unit == "amplitude",
        where=str(scan.metadata.get("source", "scan")),
    )
    moves = tables.get("positions", {})
    scale = done.window / scan.N
    same = scale == 1 and done.binned == 1
    keeps_truth = same and not moves
    positions = turned(scan.positions_px[kept], moves.get("turn"), moves.get("rotate_deg", 0.0))
    return replace(
        scan,
        measurements=done.patterns,
        positions_px=positions * scale,
        scan_index=scan.scan_index[kept],
        bad_pixels=done.bad_pixels,
        probe=scan.probe if same else None,
        object_truth=scan.object_truth if keeps_truth else None,
        object_origin_yx_px=scan.object_origin_yx_px if keeps_truth else None,
        metadata=_metadata(scan, done, kept, options),
    )


def turned_scan(scan: Scan, rule: str) -> Scan:
    """A scan with its position axes changed; its true object, which lies the other way round, is left out.

    Args:
        scan: As read.
        rule: As ``inspect --orientation`` prints it.

    Raises:
        ContractError: no legal rule.
    """
    positions = turned(scan.positions_px, rule, 0.0)
    facts = {**scan.metadata, "turn": rule}
    return replace(scan, positions_px=positions, object_truth=None, object_origin_yx_px=None, metadata=facts)


def _metadata(scan: Scan, done: Corrected, kept: Any, options: ImportOptions) -> dict[str, Any]:
    factors = {"detector_pixel_size_m": done.binned, "object_pixel_size_m": scan.N / done.window}
    geometry = {key: value * factors.get(key, 1) for key, value in scan.metadata.get("geometry", {}).items()}
    pairing = dict(scan.metadata.get("pairing") or {})
    if pairing:  # the numbers of those that are left (PTY-3)
        pairing["indexes"] = np.asarray(pairing.get("indexes") or np.arange(len(scan)))[kept].tolist()
    return {
        **scan.metadata,
        **({"pairing": pairing} if pairing else {}),
        "geometry": geometry,
        "nphotons": mean_photons(done.patterns, scan.unit, done.bad_pixels),
        "detector": done.record,
        "corrections": {name: str(value) for name, value in options.given.items()},
    }
