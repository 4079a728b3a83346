"""What a file or a folder holds: scan, bundle, reconstruction, store, results (specs/cli.md, CLI-13)."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.config import to_dict
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Reconstruction, Scan
from ptycho_data.bundle_file import read_bundle
from ptycho_data.checks.orientation_report import ranked_orientations
from ptycho_data.checks.quality import Check, ScanFacts, check_scan, gather, verdict
from ptycho_data.files import is_reconstruction
from ptycho_data.stages import Progress, begin
from ptycho_data.store import is_store, open_store, verify_store

from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.publish import require_files, staged
from ptycho_cli.output.results import is_results_folder, verified

_COLUMNS = 100
_LONGEST = 200
"""Characters of a fact; ``--json`` has all of it."""


@dataclass(frozen=True, eq=False)
class Found:
    """The content; ``kind`` is ``scan``, ``bundle``, ``reconstruction``, ``store`` or ``results``."""

    path: Path
    kind: str
    arrays: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    scan: tuple[Scan, ScanFacts] | None = None
    reconstruction: Reconstruction | None = None
    mapping: Path | None = None

    def report(self) -> dict[str, Any]:
        """JSON values: file, kind, arrays, facts and checks."""
        checks = [{"name": check.name, "status": check.status, "text": check.text} for check in self.checks]
        report = {
            "file": str(self.path),
            "kind": self.kind,
            "arrays": dict(self.arrays),
            "facts": dict(self.facts),
            "checks": checks,
        }
        if self.scan is None:
            return report
        ranked = self.facts.get("orientation")
        turn = {} if ranked is None else {"turn": ranked["turn"]}
        return {**report, **turn, "fit_for_use": verdict(self.checks), "next": self._next()}

    def _next(self) -> str:
        """The command that follows for a scan."""
        assert self.scan is not None
        file, several = shlex.quote(str(self.path)), len(np.unique(self.scan[0].scan_index)) > 1
        file += "" if self.mapping is None else f" --mapping {shlex.quote(str(self.mapping))}"
        grave = {check.name for check in self.checks if check.grave}
        if grave == {"orientation"}:
            file += f' --turn "{self.facts["orientation"]["turn"]}"'
        elif grave:
            return f"mend this, then: ptycho-cli inspect {file}"
        return f"ptycho-cli {'train' if several else 'reconstruct'} {file} --output-dir OUT"


def inspect_file(
    path: Path,
    *,
    measurement: str | None = None,
    nphotons: float | None = None,
    companion: Path | None = None,
    mapping: Path | None = None,
    orientation: bool = False,
    progress: Progress | None = None,
) -> Found:
    """Read a file of any kind and check it.

    Args:
        path: A scan in any format, a bundle, a reconstruction, or the folder of a store or of results.
        measurement, nphotons, companion, mapping: As for :func:`ptycho_data.files.read_scan`; for scans only.
        orientation: Rank the eight orientations of the positions, too; for scans only.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        MissingFileError: no such file.
        ContractError: no reader accepts it, or its content breaks a contract.
    """
    require_files([("File", path)] + ([("Companion", companion)] if companion else []))
    unit = "auto" if measurement is None else measurement
    kind = "scan" if path.is_dir() and mapping is not None else _kind(path)
    if kind != "scan":
        asked = {
            "--companion": companion is not None,
            "--orientation": orientation,
            "--measurement": measurement is not None,
            "--nphotons": nphotons is not None,
            "--mapping": mapping is not None,
        }
        problems = [
            Problem(flag, "inspect.scan_only", "a scan", f"the {kind} {path}", f"leave {flag} out")
            for flag, given in asked.items()
            if given
        ]
        if problems:
            raise ContractError(problems)
        readers = {"bundle": _bundle, "reconstruction": _reconstruction, "store": _store, "results": _results}
        return readers[kind](path)
    return _scan(path, unit, nphotons, companion, mapping, orientation, progress)


def _kind(path: Path) -> str:
    if is_store(path):
        return "store"
    if is_results_folder(path):
        return "results"
    return "bundle" if path.suffix == ".safetensors" else "reconstruction" if is_reconstruction(path) else "scan"


PREVIEWS = ("mean_pattern.png", "positions.png", "probe.png", "amplitude.png", "phase.png", "coverage.png")
"""Names that previews may have."""


def draw_previews(content: Found, output_dir: Path) -> list[Path]:
    """Pictures of the content; none for a bundle or a store."""
    if content.scan is None and content.reconstruction is None:
        return []
    with staged(output_dir) as stage:
        if content.scan is not None:
            from ptycho_cli.plots.scans import draw_scan

            written = draw_scan(*content.scan, stage)
        else:
            from ptycho_cli.plots.reconstructions import draw_reconstruction

            assert content.reconstruction is not None
            written = draw_reconstruction(content.reconstruction, stage)
    return [output_dir / path.name for path in written]


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    yield f"{report['file']}: {report['kind']}"
    for name, layout in report["arrays"].items():
        yield f"  {name:<22} {layout}"
    for name, value in report["facts"].items():
        if name == "sha256" or value in (None, {}, str(report["file"])):
            continue
        for part, content in _parts(name, value) if report["kind"] == "bundle" else [(name, value)]:
            yield from _wrapped(f"  {part:<22} ", _brief(content))
    for check in report["checks"]:
        yield from _wrapped(f"  {check['status']:<4} {check['name']:<17} ", with_flags(check["text"]))
    if "fit_for_use" in report:
        yield from _wrapped(f"  {'fit for use':<22} ", report["fit_for_use"])
        yield f"  {'next':<22} {report['next']}"
    for path in report.get("previews", ()):
        yield f"  wrote {path}"


def _wrapped(label: str, text: str) -> Iterator[str]:
    """Lines of at most 100 columns, the label before the first one."""
    hanging = " " * len(label)
    yield from textwrap.wrap(text, _COLUMNS, initial_indent=label, subsequent_indent=hanging, break_on_hyphens=False)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A fact of a bundle, and the tables in it, such as its options by section."""
    tables = {key: table for key, table in value.items() if isinstance(table, Mapping)} if _is_table(value) else {}
    if not tables or len(tables) < len(value):
        yield name, value
    for key, table in tables.items():
        if not all(_is_table(content) for content in table.values()):
            yield f"{name}.{key}", table


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _scan(
    path: Path,
    measurement: str,
    nphotons: float | None,
    companion: Path | None,
    mapping: Path | None,
    orientation: bool,
    progress: Progress | None,
) -> Found:
    from ptycho_data.files import read_scan

    scan = read_scan(path, measurement=measurement, nphotons=nphotons, companion=companion, mapping=mapping)
    begin(progress, "checks")
    facts = gather(scan)
    facts_of_scan = {"unit": scan.unit, **scan.metadata}
    checks = check_scan(scan, facts)
    if orientation:
        facts_of_scan["orientation"], check = ranked_orientations(scan, progress=progress)
        checks.append(check)
    names = ("measurements", "positions_px", "probe", "bad_pixels", "object_truth")
    arrays = {name: _layout(getattr(scan, name)) for name in names if getattr(scan, name) is not None}
    return Found(path, "scan", arrays, facts_of_scan, tuple(checks), (scan, facts), mapping=mapping)


def _reconstruction(path: Path) -> Found:
    from ptycho_data.files import read_reconstruction

    result = read_reconstruction(path)
    names = ("object", "origin_yx_px", "weight", "probe", "positions_px")
    seen = result.weight > 0
    power = np.sum(np.abs(result.probe.astype(np.complex128)) ** 2, axis=(1, 2))
    facts: dict[str, Any] = {
        "origin_yx_px": [float(value) for value in result.origin_yx_px],
        "seen": f"{100 * float(seen.mean()):.1f} % of the canvas",
        "probe_powers": [float(value) for value in power],
    }
    if result.pixel_size_m is not None:
        facts["object_pixel_size_m"] = result.pixel_size_m
    if seen.any():
        low, high = np.percentile(np.abs(result.object[seen]), (1, 99))
        facts["amplitude"] = f"{low:.3g} to {high:.3g} (1st to 99th percentile of the illuminated pixels)"
    arrays = {name: _layout(getattr(result, name)) for name in names}
    return Found(path, "reconstruction", arrays, facts, reconstruction=result)


def _store(path: Path) -> Found:
    """Every byte is read and compared with its checksum (FOLD-7)."""
    store = open_store(path)
    verify_store(path)
    facts = {"key": store.key, "unit": store.unit, "probe_kind": store.probe_kind, **store.metadata}
    arrays = {name: _layout(array) for name, array in store.arrays.items()}
    words = "every byte of the arrays and of the stored groups agrees with its checksum"
    return Found(path, "store", arrays, facts, (Check("checksums", "ok", words),))


def _results(path: Path) -> Found:
    facts, checks = verified(path)
    return Found(path, "results", {}, facts, checks)


def _bundle(path: Path) -> Found:
    """Read as for inference: a bundle that is shown here also works there."""
    content = read_bundle(path)
    arrays = {"probe": _layout(content.probe), **{name: _layout(one) for name, one in sorted(content.weights.items())}}
    facts = {
        "values": content.probe.size + sum(weight.size for weight in content.weights.values()),
        "mean_counts": content.mean_counts,
        "config": {"data": to_dict(content.config.data), "model": to_dict(content.config)},
        "provenance": content.provenance,
    }
    return Found(path, "bundle", arrays, facts)


def _brief(value: Any) -> str:
    """A fact in short; ``--json`` has all of it."""
    if isinstance(value, Mapping):
        inner = {key: part for key, part in value.items() if not isinstance(part, Mapping) and key != "sha256"}
        text = ", ".join(f"{key} {_figure(part)}" for key, part in inner.items()) or "none"
    else:
        text = _figure(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _figure(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_figure(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _layout(array: Any) -> str:
    return f"{tuple(array.shape)} {array.dtype}"
