"""Ptychodus: diffraction and product (HDF5, NPZ), training data, PtychoPINN export (specs/files.md, PTY)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.files.containers.hdf5 import Hdf5File, root_names
from ptycho_data.files.containers.zipped import NpzArchive, is_npz
from ptycho_data.files.formats.ptychodus_product import (
    Product,
    diffraction_problems,
    placement_problems,
    read_product_h5,
    read_product_npz,
)
from ptycho_data.files.formats.ptychodus_writer import write
from ptycho_data.files.interpret.assemble import Raw, scan_of
from ptycho_data.files.interpret.optics import HC_EV_M, energy_problems
from ptycho_data.files.sources import file_sha256, refuse_companion
from ptycho_data.input_files import checked_file

NAME = "ptychodus"
SUFFIXES: tuple[str, ...] = (".h5", ".hdf5")
DIFFRACTION_NAMES = frozenset({"patterns", "indexes"})
EXPORT_NAMES = frozenset(
    {
        "xcoords",
        "ycoords",
        "xcoords_start",
        "ycoords_start",
        "diff3d",
        "bad_pixels",
        "probeGuess",
        "objectGuess",
        "scan_index",
    }
)
_TRAINING_SCALARS = ("photon_energy_eV", "detector_object_distance_m", "object_pixel_width_m", "object_pixel_height_m")
STANDARD_NAMES = {"product.h5": ("diffraction.h5",), "diffraction.h5": ("product.h5",)}
"""Files of one Ptychodus working folder that belong together."""

__all__ = ["NAME", "SUFFIXES", "half_pixel", "matches", "read", "write"]


def half_pixel(N: int) -> float:
    """Shift from Ptychodus' patch centre, (N - 1) / 2, to ours, N // 2: half a pixel for even N, 0 for odd."""
    return N // 2 - (N - 1) / 2


def matches(path: Path) -> bool:
    """Whether the file is one of Ptychodus' own, by its names."""
    return kind_of(path) is not None


def kind_of(path: Path) -> str | None:
    """``"both"``, ``"product"``, ``"product-npz"``, ``"diffraction"``, ``"training"``, ``"export"``, or None."""
    if is_npz(path):
        try:
            with NpzArchive(path) as archive:
                names = frozenset(archive.names)
        except ContractError:
            return None
        if names == EXPORT_NAMES:
            return "export"
        return "product-npz" if "probe_position_indexes" in names and "diff3d" not in names else None
    names = root_names(path)
    has_product = "probe_position_indexes" in names and bool(names & {"object", "probe"})
    if names >= DIFFRACTION_NAMES:
        return "both" if has_product else "diffraction"
    if has_product:
        return "product"
    return "training" if {"patterns", "probe_position_x_px"} <= names else None


def read(
    path: Path,
    *,
    measurement: str = "auto",
    nphotons: float | None = None,
    companion: Path | None = None,
    object_is_truth: bool = False,
) -> Scan:
    """Read one scan.

    Args:
        path: Diffraction, product (HDF5 or NPZ), a file with both, training data or export.
        measurement: What the patterns hold, or ``"auto"``: counts, as Ptychodus defines.
        nphotons: Mean photons per pattern, for normalised amplitude.
        companion: The product of a diffraction file, or the reverse. Default:
            ``diffraction.h5`` and ``product.h5`` of one folder are companions.
        object_is_truth: Whether its object is the true one although it does not say so.

    Raises:
        ContractError: with all problems of both files, or saying which file is missing.
    """
    kind = kind_of(path)
    if kind in ("export", "training", "both"):
        refuse_companion(path, companion)
    if kind == "export":
        raw = _export(path)
    elif kind == "training":
        raw = _training(path)
    else:
        raw = _pair(*_both(path, kind, companion))
    return scan_of(raw, measurement=measurement, nphotons=nphotons, object_is_truth=object_is_truth)


def _both(path: Path, kind: str | None, companion: Path | None) -> tuple[Path, Path, str]:
    """Paths of diffraction and product, and how it is known that they belong together."""
    if kind == "both":
        return path, path, "one file"
    said = "argument"
    if companion is None:
        standard = (path.with_name(name) for name in STANDARD_NAMES.get(path.name, ()))
        companion = next((other for other in standard if other.is_file()), None)
        said = "standard names in one folder"
    expected = "diffraction" if kind in ("product", "product-npz") else "product"
    if companion is None:
        missing = {"diffraction": "patterns", "product": "positions and probe"}[expected]
        raise ContractError(
            Problem(
                str(path),
                "scan.companion",
                f"this {kind} file with its {expected} file, which holds the {missing}",
                "no companion",
                f"give it (`companion={expected}.h5`), or put {expected}.h5 beside {path.name}",
            )
        )
    companion = checked_file(companion)
    other = kind_of(companion)
    if other not in ({"diffraction", "both"} if expected == "diffraction" else {"product", "product-npz", "both"}):
        raise ContractError(
            Problem(
                str(companion),
                "scan.companion",
                f"Ptychodus' {expected} file",
                f"{other or 'another kind of file'}",
                f"give the {expected} file of {path.name}",
            )
        )
    return (companion, path, said) if expected == "diffraction" else (path, companion, said)


def _diffraction(path: Path) -> tuple[dict[str, NDArray[Any] | None], tuple[float, float], dict[str, Any]]:
    """Arrays, detector pixel (width, height) and our own notes of a diffraction file."""
    with Hdf5File(path) as file:
        arrays = {name: file.array(name) for name in ("patterns", "indexes", "bad_pixels", "ptycho_scan_index")}
        pixel = tuple(file.attribute_number("patterns", f"detector_pixel_{axis}_m") for axis in ("width", "height"))
        notes = {
            "measurement": file.text("ptycho_measurement"),
            "probe_kind": file.text("ptycho_probe_kind"),
            "object_kind": file.text("ptycho_object_kind"),
            "metadata": file.text("ptycho_metadata"),
            "origin": file.array("ptycho_object_origin_yx_px"),
        }
    problems = []
    for name in ("patterns", "indexes"):
        array, dims = arrays[name], 3 if name == "patterns" else 1
        if array is None or array.ndim != dims or (name == "indexes" and array.dtype.kind not in "iu"):
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            words = "(pattern, y, x)" if name == "patterns" else "(pattern,) integer"
            problems.append(Problem(f"{path}: {name}", "array.shape", words, found, "write the file again"))
    if any(size is None or not size > 0 for size in pixel):
        problems.append(
            Problem(
                f"{path}: patterns",
                "geometry.missing",
                "detector_pixel_width_m and detector_pixel_height_m",
                str(pixel),
                "write the attributes",
            )
        )
    if problems:
        raise ContractError(problems)
    return arrays, pixel, notes  # type: ignore[return-value]


def _pair(diffraction: Path, product_path: Path, said: str) -> Raw:
    """Patterns and positions that share an index; every pattern must have one."""
    arrays, pixel, notes = _diffraction(diffraction)
    product = read_product_npz(product_path) if is_npz(product_path) else read_product_h5(product_path)
    patterns, indexes = np.asarray(arrays["patterns"]), np.asarray(arrays["indexes"])
    N = patterns.shape[-1]
    problems = _index_problems(diffraction, product, patterns, indexes)
    if patterns.shape[1] == N:
        problems += diffraction_problems(product, N, pixel)
    if problems:
        raise ContractError(problems)
    order = np.argsort(product.indexes)
    rows = order[np.searchsorted(product.indexes[order], indexes)]
    layered = product.object.ndim == 3
    origin = np.zeros(2) if notes["origin"] is None else np.asarray(notes["origin"]).reshape(-1)
    if origin.shape != (2,) or origin.dtype.kind != "f" or not np.isfinite(origin).all():
        raise ContractError(
            Problem(
                f"{diffraction}: ptycho_object_origin_yx_px",
                "array.shape",
                "two finite numbers",
                str(origin.shape),
                "remove the dataset",
            )
        )
    scalars = product.scalars
    square = math.isclose(*pixel, rel_tol=1e-6)
    return Raw(
        path=diffraction,
        format=NAME,
        patterns=patterns,
        positions=product.positions_px()[rows] + half_pixel(N) + origin[::-1],
        probe=product.probe,
        bad_pixels=arrays["bad_pixels"],
        scan_index=arrays["ptycho_scan_index"],
        object=None if layered else product.object,
        object_origin_yx_px=origin,
        scalars={
            "photon_energy_ev": scalars["photon_energy_eV"],
            "detector_distance_m": scalars["detector_object_distance_m"],
            **(
                {"detector_pixel_size_m": pixel[0], "object_pixel_size_m": scalars["object_pixel_width_m"]}
                if square
                else {}
            ),
        },
        texts={
            "measurement": "counts",
            **{
                key: notes[key]
                for key in ("measurement", "probe_kind", "object_kind", "metadata")
                if isinstance(notes[key], str)
            },
        },
        zero_frequency="centre",
        compare_object=True,
        reconstructed=product.losses > 0,
        decisions={
            "positions": _rule(N, "m"),
            "companion": {"source": str(product_path), "sha256": file_sha256(product_path), "found_by": said},
            "pairing": {
                "rule": "index value",
                "patterns": len(indexes),
                "positions": len(product.indexes),
                "positions_without_pattern": len(product.indexes) - len(indexes),
                **({} if np.array_equal(indexes, np.arange(len(indexes))) else {"indexes": indexes.tolist()}),
            },
            **({"ptychodus": dict(product.notes)} if product.notes else {}),
        },
    )


def _index_problems(path: Path, product: Product, patterns: NDArray[Any], indexes: NDArray[Any]) -> list[Problem]:
    if len(indexes) != len(patterns):
        return [
            Problem(
                f"{path}: indexes",
                "scan.counts_differ",
                f"as many indexes as patterns: {len(patterns)}",
                f"{len(indexes)} indexes",
                "write the file again",
            )
        ]
    if len(np.unique(indexes)) != len(indexes):
        return [
            Problem(
                f"{path}: indexes",
                "ptychodus.indexes",
                "each index once",
                "repeated indexes",
                "give each pattern its own index",
            )
        ]
    lost = np.setdiff1d(indexes, product.indexes)
    if not lost.size:
        return []
    mine, theirs = (f"{numbers.min()} to {numbers.max()}" for numbers in (indexes, product.indexes))
    return [
        Problem(
            f"{product.path}: probe_position_indexes",
            "ptychodus.unpaired",
            f"a position of the same index for each of {len(indexes)} patterns (indexes {mine})",
            f"{lost.size} patterns without one (indexes {theirs})",
            "patterns and positions pair by index value: correct the indexes, or remove those patterns",
        )
    ]


def _training(path: Path) -> Raw:
    with Hdf5File(path) as file:
        arrays = {
            name: file.array(name)
            for name in ("patterns", "bad_pixels", "probe", "object", "probe_position_x_px", "probe_position_y_px")
        }
        numbers = {name: file.scalar(name) for name in _TRAINING_SCALARS}
    scalars = _training_scalars(path, numbers, arrays["patterns"])
    return _in_pixels(path, arrays, ("probe_position_x_px", "probe_position_y_px"), scalars)


def _training_scalars(
    path: Path, numbers: Mapping[str, float | None], patterns: NDArray[Any] | None
) -> dict[str, float]:
    known = {name: value for name, value in numbers.items() if value is not None}
    problems = [
        Problem(f"{path}: {name}", "scan.scalar", "one positive number", repr(value), "correct the value")
        for name, value in known.items()
        if not value > 0
    ]
    energy, distance = known.get("photon_energy_eV"), known.get("detector_object_distance_m")
    width, height = known.get("object_pixel_width_m"), known.get("object_pixel_height_m")
    if energy and energy > 0:
        problems += energy_problems(f"{path}: photon_energy_eV", energy)
    if problems:
        raise ContractError(problems)
    scalars = {"photon_energy_ev": energy, "detector_distance_m": distance}
    if width and height and math.isclose(width, height, rel_tol=1e-6):
        scalars["object_pixel_size_m"] = width
        if energy and distance and patterns is not None and patterns.ndim == 3:
            # The far-field relation is its own inverse: the file does not store the detector's pixel.
            scalars["detector_pixel_size_m"] = HC_EV_M / energy * distance / (patterns.shape[-1] * width)
    return {key: value for key, value in scalars.items() if value is not None}


def _export(path: Path) -> Raw:
    with NpzArchive(path) as archive:
        content = archive.read(EXPORT_NAMES)
    arrays = {
        "patterns": content["diff3d"],
        "bad_pixels": content["bad_pixels"],
        "probe": content["probeGuess"],
        "object": content["objectGuess"],
        "x": content["xcoords"],
        "y": content["ycoords"],
        "scan_index": content["scan_index"],
    }
    return _in_pixels(path, arrays, ("x", "y"), {})


def _in_pixels(
    path: Path, arrays: Mapping[str, NDArray[Any] | None], axes: tuple[str, str], scalars: Mapping[str, float]
) -> Raw:
    """A whole scan of one file with positions in pixels of its object."""
    x, y, patterns, object_ = (arrays.get(name) for name in (*axes, "patterns", "object"))
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape or "c" in (x.dtype.kind, y.dtype.kind):
        shapes = " and ".join("nothing" if a is None else f"{a.dtype} of shape {a.shape}" for a in (x, y))
        raise ContractError(
            Problem(
                f"{path}: {', '.join(axes)}",
                "scan.positions_shape",
                "two arrays (M,) of one length",
                shapes,
                "store one x and one y for each pattern",
            )
        )
    positions = np.stack([x, y], axis=1).astype(np.float64)
    N = 0 if patterns is None or patterns.ndim != 3 else patterns.shape[-1]
    if object_ is not None and object_.dtype.kind == "c" and not np.isfinite(object_).all():
        raise ContractError(
            Problem(
                f"{path}: object",
                "array.not_finite",
                "finite values",
                f"{int((~np.isfinite(object_)).sum())} NaN or infinite values",
                "correct the object",
            )
        )
    if object_ is not None and object_.ndim == 2 and N and np.isfinite(positions).all():
        problems = placement_problems(path, positions, object_.shape, N, "in pixels")
        if problems:
            raise ContractError(problems)
    return Raw(
        path=path,
        format=NAME,
        patterns=patterns,
        positions=positions + half_pixel(N),
        probe=arrays["probe"],
        bad_pixels=arrays["bad_pixels"],
        scan_index=arrays.get("scan_index"),
        object=object_,
        scalars=scalars,
        texts={"measurement": "counts"},
        zero_frequency="centre",
        compare_object=True,
        decisions={"positions": _rule(N, "px")},
    )


def _rule(N: int, unit: str) -> dict[str, Any]:
    return {
        "stored_unit": unit,
        "rule": "object pixels by Ptychodus' centred-pixel rule, patch centre (N - 1) / 2 moved to N // 2",
        "shift_px": half_pixel(N),
        "decided_by": "format",
    }
