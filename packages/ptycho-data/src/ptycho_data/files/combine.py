"""Several scans as one record, kept apart by ``scan_index`` (specs/files.md, COMB)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan, Truth


def combine_scans(scans: Sequence[Scan]) -> Scan:
    """One Scan of several: patterns in the order given, scans renumbered from 0 and never mixed.

    Patterns of different units become float32 counts. The probe is the first that any scan has;
    it is exact only if every scan declares its own exact. A pixel that is bad in one scan is bad.
    Each scan keeps its true object, if it has one (ARR-17). ``metadata`` has those of all as ``scans``, and their
    mean photons per pattern as ``nphotons``.

    Raises:
        ContractError: no scan, or scans of different N.
    """
    if len(scans) == 1:
        return scans[0]
    sizes = sorted({scan.N for scan in scans})
    if len(sizes) != 1:
        raise ContractError(
            Problem(
                "combine_scans: " + ", ".join(str(scan.metadata.get("source", "Scan")) for scan in scans[:4]),
                "scan.sizes",
                "one or more scans of one pattern size",
                "patterns of " + ", ".join(f"{side} x {side}" for side in sizes) if sizes else "no scan",
                "import the files with `crop`, `pad` or `bin`",
            )
        )
    doses = [scan.metadata["nphotons"] for scan in scans if "nphotons" in scan.metadata]
    known = len(doses) == len(scans)
    mean = {"nphotons": float(np.average(doses, weights=[len(scan) for scan in scans]))} if known else {}
    one_unit = len({scan.unit for scan in scans}) == 1
    numbers, first = [], 0
    truths: dict[int, Truth] = {}
    for scan in scans:
        own, local = np.unique(scan.scan_index, return_inverse=True)
        numbers.append(local.astype(np.int64) + first)
        truths |= {first + new: scan.truths[old] for new, old in enumerate(own.tolist()) if old in scan.truths}
        first = int(numbers[-1].max()) + 1
    bad = [scan.bad_pixels for scan in scans if scan.bad_pixels is not None]
    return Scan(
        measurements=np.concatenate([scan.measurements if one_unit else scan.counts() for scan in scans]),
        unit=scans[0].unit if one_unit else "counts",
        positions_px=np.concatenate([scan.positions_px for scan in scans]),
        probe=next((scan.probe for scan in scans if scan.probe is not None), None),
        probe_kind="exact" if all(scan.probe_kind == "exact" for scan in scans) else "guess",
        bad_pixels=np.logical_or.reduce(bad) if bad else None,
        scan_index=np.concatenate(numbers),
        object_truths=truths,
        metadata={"scans": [dict(scan.metadata) for scan in scans], **mean},
    )
