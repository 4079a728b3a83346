"""Ptychodus products, of HDF5 and NPZ, under one set of names, with every check that needs no patterns (PTY)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.hdf5 import Hdf5File
from ptycho_data.files.containers.zipped import NpzArchive
from ptycho_data.files.interpret.optics import energy_problems, object_pixel_m, pixel_problems

PRODUCT_NAMES = frozenset({"object", "probe", "probe_position_indexes", "probe_position_x_m", "probe_position_y_m"})
_ARRAYS = tuple(sorted(PRODUCT_NAMES))
_SCALARS = ("detector_object_distance_m", "photon_energy_eV", "probe_energy_eV", "probe_photon_count")
_GEOMETRY = {
    "object_pixel_width_m": ("object", "pixel_width_m"),
    "object_pixel_height_m": ("object", "pixel_height_m"),
    "object_center_x_m": ("object", "center_x_m"),
    "object_center_y_m": ("object", "center_y_m"),
    "probe_pixel_width_m": ("probe", "pixel_width_m"),
    "probe_pixel_height_m": ("probe", "pixel_height_m"),
}
_REQUIRED = (
    "detector_object_distance_m",
    "photon_energy_eV",
    "object_pixel_width_m",
    "object_pixel_height_m",
    "object_center_x_m",
    "object_center_y_m",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Product:
    """One product.

    Attributes:
        path: Its file.
        indexes: (M,) int64, index of each position.
        positions_m: (M, 2) float64 ``[x, y]``.
        probe: (modes, N, N) complex.
        object: (H, W) complex, or None if it has several layers.
        scalars: Energy in eV, distance, pixel sizes and centre in m, by Ptychodus' names.
        losses: How many losses it records; 0 for an object that was never fitted.
        notes: Recorded peculiarities.
    """

    path: Path
    indexes: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    probe: NDArray[Any]
    object: NDArray[Any]
    scalars: Mapping[str, float]
    losses: int
    notes: Mapping[str, Any]

    def positions_px(self) -> NDArray[np.float64]:
        """(M, 2) ``[x, y]`` in pixels of the object's array, Ptychodus' convention of the patch centre.

        ``x_px = (x_m - center_x_m) / pixel_width_m + (W - 1) / 2``.
        """
        height, width = self.object.shape[-2:]
        centre = np.array([self.scalars["object_center_x_m"], self.scalars["object_center_y_m"]])
        pixel = np.array([self.scalars["object_pixel_width_m"], self.scalars["object_pixel_height_m"]])
        with np.errstate(over="ignore", invalid="ignore"):
            placed = (self.positions_m - centre) / pixel + (np.array([width, height]) - 1) / 2
        return np.asarray(placed, np.float64)


def read_product_h5(path: Path) -> Product:
    """Product of an HDF5 file, checked.

    Raises:
        ContractError: with all problems.
    """
    with Hdf5File(path) as file:
        arrays = {name: file.array(name) for name in _ARRAYS}
        scalars = {name: file.attribute_number("/", name) for name in _SCALARS}
        scalars |= {name: file.attribute_number(*place) for name, place in _GEOMETRY.items()}
        far_field = file.attribute_number("/", "far_field")
        losses = file.shape("loss_values")
        opr = file.has("opr_weights")
    return _product(path, arrays, scalars, far_field, losses[0] if losses else 0, opr)


def read_product_npz(path: Path) -> Product:
    """Product of an NPZ archive, checked.

    Raises:
        ContractError: with all problems.
    """
    with NpzArchive(path) as archive:
        arrays = archive.read((*_ARRAYS, *_SCALARS, *_GEOMETRY, "far_field", "loss_values", "opr_weights"))
    number = _numbers(path, arrays)
    scalars = {name: number(name) for name in (*_SCALARS, *_GEOMETRY)}
    losses = arrays.get("loss_values")
    return _product(
        path,
        {name: arrays.get(name) for name in _ARRAYS},
        scalars,
        number("far_field"),
        0 if losses is None else losses.size,
        "opr_weights" in arrays,
    )


def _numbers(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Callable[[str], float | None]:
    def number(name: str) -> float | None:
        array = arrays.get(name)
        if array is None:
            return None
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ContractError(
                Problem(
                    f"{path}: {name}",
                    "scan.scalar",
                    "one number",
                    f"{array.dtype} of shape {array.shape}",
                    "correct the value",
                )
            )
        return float(array.reshape(-1)[0])

    return number


def _product(
    path: Path,
    arrays: Mapping[str, NDArray[Any] | None],
    scalars: dict[str, float | None],
    far_field: float | None,
    losses: int,
    opr: bool,
) -> Product:
    if scalars["photon_energy_eV"] is None:
        scalars["photon_energy_eV"] = scalars["probe_energy_eV"]
    problems = [*_array_problems(path, arrays), *_scalar_problems(path, scalars)]
    if far_field == 0:
        problems.append(
            Problem(
                f"{path}: far_field",
                "ptychodus.near_field",
                "a far-field product",
                "a near-field one",
                "near-field data are not supported",
            )
        )
    if problems:
        raise ContractError(problems)
    object_, probe = np.asarray(arrays["object"]), np.asarray(arrays["probe"])
    notes: dict[str, Any] = {}
    if object_.ndim == 3 and len(object_) > 1:
        notes["object_layers"] = len(object_)
    if probe.ndim == 4 and len(probe) > 1:
        notes["probe_opr_modes"] = len(probe)
    if opr:
        notes["opr_weights"] = "not used: the first probe is used for all positions"
    known = {name: value for name, value in scalars.items() if value is not None}
    product = Product(
        path=path,
        indexes=np.asarray(arrays["probe_position_indexes"]).astype(np.int64),
        positions_m=np.stack([np.asarray(arrays[f"probe_position_{axis}_m"], np.float64) for axis in "xy"], axis=1),
        probe=probe[0] if probe.ndim == 4 else probe,
        object=object_ if object_.ndim == 2 else object_[0] if len(object_) == 1 else object_,
        scalars=known,
        losses=losses,
        notes=notes,
    )
    problems = _placement_problems(product)
    if problems:
        raise ContractError(problems)
    return product


def _array_problems(path: Path, arrays: Mapping[str, NDArray[Any] | None]) -> list[Problem]:
    problems = []
    for name in _ARRAYS:
        array, where = arrays[name], f"{path}: {name}"
        dims, kinds, words = {
            "object": ((2, 3), "c", "(layer, y, x) complex"),
            "probe": ((2, 3, 4), "c", "(opr, mode, y, x) complex"),
            "probe_position_indexes": ((1,), "iu", "(M,) integer"),
        }.get(name, ((1,), "f", "(M,) float, in metres"))
        if array is None:
            problems.append(Problem(where, "array.missing", words, "nothing", "write the product again"))
        elif array.ndim not in dims or array.dtype.kind not in kinds or array.size == 0:
            found = f"{array.dtype} of shape {array.shape}"
            problems.append(Problem(where, "array.shape", words, found, "write the product again"))
        elif array.dtype.kind in "fc" and not np.isfinite(array).all():
            found = f"{int((~np.isfinite(array)).sum())} NaN or infinite values"
            problems.append(Problem(where, "array.not_finite", "finite values", found, "correct the product"))
    if not problems:
        problems += _pairing_problems(path, arrays)
    return problems


def _pairing_problems(path: Path, arrays: Mapping[str, Any]) -> list[Problem]:
    sizes = {name: len(arrays[name]) for name in _ARRAYS if name.startswith("probe_position")}
    if len(set(sizes.values())) != 1:
        return [
            Problem(
                f"{path}: positions",
                "scan.counts_differ",
                "as many x as y as indexes",
                ", ".join(f"{size} {name}" for name, size in sizes.items()),
                "the arrays are cut; write them again",
            )
        ]
    indexes = arrays["probe_position_indexes"]
    repeated = len(indexes) - len(np.unique(indexes))
    if repeated or int(indexes.max()) > np.iinfo(np.int64).max:
        return [
            Problem(
                f"{path}: probe_position_indexes",
                "ptychodus.indexes",
                "each index once",
                f"{repeated} repeated or too large",
                "give each position its own index",
            )
        ]
    return []


def _scalar_problems(path: Path, scalars: Mapping[str, float | None]) -> list[Problem]:
    problems = []
    for name, value in scalars.items():
        may_be_zero = name in ("object_center_x_m", "object_center_y_m", "probe_photon_count")
        if value is None and name in _REQUIRED:
            problems.append(
                Problem(f"{path}: {name}", "geometry.missing", "a number", "nothing", "write the product again")
            )
        elif value is not None and (not np.isfinite(value) or (value <= 0 and not may_be_zero)):
            problems.append(
                Problem(
                    f"{path}: {name}",
                    "scan.scalar",
                    "a finite number" if may_be_zero else "one positive number",
                    repr(value),
                    "correct the product",
                )
            )
    if problems:
        return problems
    problems += energy_problems(f"{path}: photon_energy_eV", scalars["photon_energy_eV"] or 0.0)
    for axis in ("width", "height"):
        stored, probe = scalars[f"object_pixel_{axis}_m"], scalars[f"probe_pixel_{axis}_m"]
        if stored and probe and not np.isclose(stored, probe, rtol=1e-3):
            problems.append(
                Problem(
                    f"{path}: probe pixel_{axis}_m",
                    "geometry.probe_pixel",
                    f"the object's {stored:.6g} m",
                    f"{probe:.6g} m",
                    "in the far field both are the same; correct the product",
                )
            )
    return problems


def _placement_problems(product: Product) -> list[Problem]:
    """Patches that leave the object: positions in other units, swapped, or about another centre."""
    return placement_problems(
        product.path,
        product.positions_px(),
        product.object.shape[-2:],
        product.probe.shape[-1],
        f"their x from {product.positions_m[:, 0].min():.4g} to {product.positions_m[:, 0].max():.4g} m",
    )


def placement_problems(
    path: Path, positions: NDArray[np.float64], shape: tuple[int, ...], N: int, detail: str
) -> list[Problem]:
    """Positions, in pixels of the object's array by Ptychodus' rule, whose patches have no room in it.

    A margin of a few pixels is for positions that a reconstruction has refined.
    """
    height, width = shape
    margin = max(2.0, N / 16)
    low, high = positions - (N - 1) / 2, positions + (N - 1) / 2
    out = (low < -margin) | (high > np.array([width - 1, height - 1]) + margin)
    count = int(out.any(axis=1).sum())
    if not count:
        return []
    spans = ", ".join(f"{axis} {low[:, i].min():.5g} to {high[:, i].max():.5g}" for i, axis in enumerate("xy"))
    return [
        Problem(
            f"{path}: positions",
            "scan.positions_outside",
            f"all patches within the object of {width} x {height} px",
            f"{count} of {len(positions)} outside, patches covering {spans} px ({detail})",
            "check the unit of the positions (m), their axis order, the object's centre and pixel size",
        )
    ]


def diffraction_problems(product: Product, N: int, detector_pixel_m: tuple[float, float]) -> list[Problem]:
    """A product against its patterns: probe size, and ``lambda z / (N detector_pixel)`` on both axes."""
    path, scalars = product.path, product.scalars
    problems = []
    if product.probe.shape[-2:] != (N, N):
        problems.append(
            Problem(
                f"{path}: probe",
                "array.shape",
                f"(mode, {N}, {N}), the size of the patterns",
                f"shape {product.probe.shape}",
                "give the product that belongs to these patterns",
            )
        )
    else:
        for axis, pixel in zip(("width", "height"), detector_pixel_m, strict=True):
            expected = object_pixel_m(scalars["photon_energy_eV"], scalars["detector_object_distance_m"], pixel, N)
            problems += pixel_problems(
                f"{path}: object pixel_{axis}_m", stored_m=scalars[f"object_pixel_{axis}_m"], expected_m=expected
            )
    return problems
