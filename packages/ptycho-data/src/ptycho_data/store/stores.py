"""Memory-mapped store of one scan: patterns once, in their own dtype; groups beside them (specs/store.md)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.arrays import validate
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError
from ptycho_contracts.records import SCAN_ARRAYS, Batch, Groups, MeasurementUnit, ProbeKind, Scan, Truth

from ptycho_data.batches.gathering import gather, mean_counts
from ptycho_data.batches.truths import truth_arrays, truth_specs, truths_in
from ptycho_data.grouping.groups import GROUPING_VERSION, group
from ptycho_data.store.commits import commit_folder
from ptycho_data.store.folders import (
    MANIFEST,
    ArrayFolder,
    Progress,
    digest,
    open_committed,
    open_folder,
    verify_folder,
)
from ptycho_data.store.ownership import GROUP_ARRAYS

__all__ = ["Store", "create_store", "gather", "is_store", "mean_counts", "open_store", "verify_store"]

KIND = "store"
GROUPS_KIND = "groups"


@dataclass(frozen=True, eq=False)
class Store:
    """A committed store, opened read-only; it reads like a :class:`Scan`, and pickles as its path and key.

    Attributes:
        path: The folder.
        key: Key of all content: arrays, unit, metadata.
        arrays: Memory-mapped arrays by name.
        facts: ``unit``, ``probe_kind`` and ``metadata``.
    """

    path: Path
    key: str
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]

    @property
    def measurements(self) -> NDArray[Any]:
        """(M, N, N), storage dtype; ``unit`` says what a pixel holds."""
        return self.arrays["measurements"]

    @property
    def unit(self) -> MeasurementUnit:
        """``"counts"`` or ``"amplitude"``."""
        return self.facts["unit"]  # type: ignore[no-any-return]

    @property
    def positions_px(self) -> NDArray[np.float64]:
        """(M, 2) float64 ``[x, y]``."""
        return self.arrays["positions_px"]

    @property
    def scan_index(self) -> NDArray[np.int64]:
        """(M,) int64."""
        return self.arrays["scan_index"]

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """(modes, N, N) complex64 or None."""
        return self.arrays.get("probe")

    @property
    def probe_kind(self) -> ProbeKind:
        """``"exact"`` or ``"guess"``."""
        return self.facts["probe_kind"]  # type: ignore[no-any-return]

    @property
    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """(N, N) bool or None."""
        return self.arrays.get("bad_pixels")

    @property
    def object_truth(self) -> NDArray[np.complex64] | None:
        """(H, W) complex64 or None."""
        return self.arrays.get("object_truth")

    @property
    def object_origin_yx_px(self) -> NDArray[np.float64] | None:
        """(2,) float64 or None."""
        return self.arrays.get("object_origin_yx_px")

    @cached_property
    def truths(self) -> Mapping[int, Truth]:
        """True object of each scan by its ``scan_index``, as far as they are known (ARR-17)."""
        if self.object_truth is None or self.object_origin_yx_px is None:
            return truths_in(self.arrays)
        shared = Truth(object=self.object_truth, origin_yx_px=self.object_origin_yx_px)
        return {int(number): shared for number in np.unique(self.scan_index)}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Metadata of the scan."""
        return self.facts["metadata"]  # type: ignore[no-any-return]

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return int(self.measurements.shape[-1])

    def __len__(self) -> int:
        return len(self.measurements)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (str(self.path), self.key)

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Photon counts of the chosen patterns, float32, whatever the storage dtype and unit."""
        chosen = np.array(self.measurements[index], dtype=np.float32)
        return np.square(chosen) if self.unit == "amplitude" else chosen

    def groups(
        self,
        *,
        gridsize: int,
        n_groups: int | None = None,
        neighbor_count: int | None = None,
        seed: int = 0,
        allowed: Any | None = None,
        oversampling: int | None = None,
        min_distance_px: float | None = None,
        max_distance_px: float | None = None,
        sequential: bool = False,
    ) -> Groups:
        """Groups of this store's patterns, as :func:`ptycho_data.grouping.groups.group` makes them.

        They are kept in ``groups-<key>`` inside the store, if it is writable, and read
        from there the next time; the patterns are never repeated.

        Raises:
            ContractError: as :func:`ptycho_data.grouping.groups.group`.
        """
        options: dict[str, Any] = {
            "gridsize": gridsize,
            "n_groups": n_groups,
            "neighbor_count": neighbor_count,
            "seed": seed,
            "oversampling": oversampling,
            "min_distance_px": min_distance_px,
            "max_distance_px": max_distance_px,
            "sequential": sequential,
        }
        request = {
            "store": self.key,
            "grouping_version": GROUPING_VERSION,
            "allowed": None if allowed is None else digest(np.asarray(allowed).tolist()),
            **options,
        }
        folder = self.path / f"groups-{digest(request)[:16]}"
        kept = _kept_groups(folder, request)
        if kept is not None:
            return kept
        made = group(self.positions_px, scan_index=self.scan_index, allowed=allowed, **options)
        arrays = {name: getattr(made, name) for name in GROUP_ARRAYS}
        try:
            commit_folder(folder, kind=GROUPS_KIND, arrays=arrays, facts={"request": request})
        except (ContractError, WorkFailedError, MissingFileError):
            return made  # a store on a full or read-only disk, or with foreign files there, still has groups, in memory
        return made

    def batch(self, groups: Groups, rows: Any, *, mean_counts: Mapping[int, float], truth: bool = False) -> Batch:
        """Patterns of some groups, as :func:`ptycho_data.batches.gathering.gather`."""
        return gather(self, groups, rows, mean_counts=mean_counts, truth=truth)


def create_store(path: Path | str, scan: Scan, *, progress: Progress | None = None) -> Store:
    """Write a scan as a store, or reuse the store that already holds exactly this scan.

    Args:
        path: Folder of the store. A store of other content there is replaced; anything else is refused.
        scan: The scan.
        progress: Called as ``progress(stage, done, total)`` in bytes, with stages compare
            (if a store of this layout is there), write, commit.

    Raises:
        ContractError: the path holds something that is not a store, or metadata are not JSON.
        MissingFileError: the parent folder does not exist.
        WorkFailedError: the disk refused the data, or rows written differ from rows declared.
    """
    path = Path(path)
    arrays = {spec.name: getattr(scan, spec.name) for spec in SCAN_ARRAYS} | truth_arrays(scan.object_truths)
    facts = {"unit": scan.unit, "probe_kind": scan.probe_kind, "metadata": dict(scan.metadata)}
    commit_folder(
        path,
        kind=KIND,
        arrays={name: array for name, array in arrays.items() if array is not None},
        facts=facts,
        progress=progress,
    )
    return open_finished(path)


def open_store(path: Path | str) -> Store:
    """Open a store: manifest, headers, sizes and the bytes of small arrays are checked; many patterns stay unread.

    Raises:
        MissingFileError: nothing there.
        ContractError: not a finished store of a known schema, or an altered or cut one.
    """
    return _store(open_folder(Path(path), KIND))


def is_store(path: Path | str) -> bool:
    """Whether a folder claims to be a store: one with a manifest."""
    return (Path(path) / MANIFEST).exists()


def _reopened(path: str, key: str) -> Store:
    """A store in the process that it was pickled to.

    Raises:
        MissingFileError, ContractError: as :func:`open_store`, or the path holds another store by now.
    """
    store = open_store(path)
    if store.key != key:
        raise ContractError(
            Problem(
                path,
                "store.replaced",
                f"the store of key {key[:16]}..., which was pickled",
                f"another one, of key {store.key[:16]}...",
                "a second run has replaced it; give each run an output folder of its own and run this one again",
            )
        )
    return store


def open_finished(path: Path) -> Store:
    """Open a store that has just been committed, while other writers may be replacing it."""
    return _store(open_committed(path, KIND))


def _store(folder: ArrayFolder) -> Store:
    specs = (*SCAN_ARRAYS, *truth_specs(folder.arrays))
    validate({spec.name: folder.arrays.get(spec.name) for spec in specs}, specs, where=str(folder.path), content=False)
    facts = {name: folder.facts.get(name) for name in ("unit", "probe_kind", "metadata")}
    legal = facts["unit"] in get_args(MeasurementUnit) and facts["probe_kind"] in get_args(ProbeKind)
    if not legal or not isinstance(facts["metadata"], dict):
        raise ContractError(
            Problem(
                str(folder.path),
                "store.manifest",
                "unit, probe_kind and metadata of a scan",
                f"{facts}"[:200],
                "build the store again",
            )
        )
    return Store(folder.path, folder.key, folder.arrays, folder.facts)


def verify_store(path: Path | str, *, progress: Progress | None = None) -> None:
    """Read all of a store, its groups too, and compare it with its checksums.

    Raises:
        MissingFileError, ContractError: as :func:`open_store`; or altered data, with all problems at once.
    """
    path = Path(path)
    open_store(path)
    problems: list[Problem] = []
    for folder, kind in (
        (path, KIND),
        *((folder_of_groups, GROUPS_KIND) for folder_of_groups in sorted(path.glob("groups-*"))),
    ):
        try:
            verify_folder(folder, kind, progress=progress)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)


def _kept_groups(folder: Path, request: Mapping[str, Any]) -> Groups | None:
    """Groups of an earlier, equal request; None if there are none or they are damaged."""
    try:
        kept = open_folder(folder, GROUPS_KIND, verified_bytes=sys.maxsize)
        if kept.facts.get("request") != request or set(kept.arrays) != set(GROUP_ARRAYS):
            return None
        return Groups(**kept.arrays)
    except (ContractError, MissingFileError):
        return None
