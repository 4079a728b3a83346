"""Declare an array once, validate it anywhere, get all problems at once (specs/arrays.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_contracts.problems import ContractError, Problem

KIND_NAMES = {"u": "unsigned integer", "i": "integer", "f": "float", "c": "complex", "b": "boolean"}
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Declaration of one array.

    Attributes:
        name: Name of the array in its record or file.
        dims: One entry per dimension: an int fixes the size, a name must have the same size
            wherever it occurs in the same set of arrays.
        kinds: Legal NumPy dtype kinds, of ``u i f c b``.
        dtype: Exact dtype, if the contract fixes it.
        unit: What a value means; for messages and docs.
        minimum: Smallest legal value of a real array.
        optional: Whether None is legal.
        finite: Whether NaN and infinities are refused.
    """

    name: str
    dims: tuple[int | str, ...]
    kinds: str = "f"
    dtype: str | None = None
    unit: str = ""
    minimum: float | None = None
    optional: bool = False
    finite: bool = True

    @property
    def kind_words(self) -> str:
        """The legal kinds of dtype in words; signed integers include the unsigned ones."""
        names = [KIND_NAMES[kind] for kind in self.kinds if not (kind == "u" and "i" in self.kinds)]
        return " or ".join(names)

    @property
    def layout(self) -> str:
        """The declaration in words, such as ``"(pattern, y, x) float32 [counts]"``."""
        kind = self.dtype or self.kind_words
        dims = ", ".join(map(str, self.dims)) + ("," if len(self.dims) == 1 else "")
        return f"({dims}) {kind}" + (f" [{self.unit}]" if self.unit else "")


def problems_of(record: Any, specs: Sequence[ArraySpec], *, where: str = "", content: bool = True) -> list[Problem]:
    """Every problem of a set of arrays against their declarations.

    Args:
        record: Arrays (NumPy, memory-mapped or h5py) by name, as a mapping, in which a missing one
            counts as None, or as the attributes of an object.
        specs: Declarations; a dimension's name ties sizes across all of them.
        where: Prefix for :attr:`Problem.where`, such as a path.
        content: Also check values (finite, minimum), block by block.
    """
    arrays = record if isinstance(record, Mapping) else {spec.name: getattr(record, spec.name) for spec in specs}
    sizes: dict[str, tuple[int, str]] = {}
    problems: list[Problem] = []
    for spec in specs:
        here = f"{where}: {spec.name}" if where else spec.name
        array = arrays.get(spec.name)
        if array is None:
            if not spec.optional:
                problems.append(Problem(here, "array.missing", spec.layout, "nothing", f"provide '{spec.name}'"))
            continue
        if not isinstance(getattr(array, "dtype", None), np.dtype):
            problems.append(Problem(here, "array.type", spec.layout, type(array).__name__, "pass a NumPy array"))
            continue
        structural = [*_dtype_problems(array, spec, here), *_shape_problems(array, spec, here, sizes)]
        problems += structural
        if content and not structural:
            problems += _content_problems(array, spec, here)
    return problems


def validate(record: Any, specs: Sequence[ArraySpec], *, where: str = "", content: bool = True) -> None:
    """Check a mapping of arrays, or an object with arrays as attributes, against declarations.

    Raises:
        ContractError: with all problems of all arrays.
    """
    problems = problems_of(record, specs, where=where, content=content)
    if problems:
        raise ContractError(problems)


def _dtype_problems(array: NDArray[Any], spec: ArraySpec, here: str) -> Iterator[Problem]:
    kind_is_wrong = array.dtype.kind not in spec.kinds
    if kind_is_wrong or (spec.dtype is not None and array.dtype != np.dtype(spec.dtype)):
        expected = spec.dtype or spec.kind_words
        found = "text" if array.dtype.kind in "SU" else str(array.dtype)
        yield Problem(here, "array.dtype", expected, found, "convert the array explicitly")


def _shape_problems(
    array: NDArray[Any], spec: ArraySpec, here: str, sizes: dict[str, tuple[int, str]]
) -> Iterator[Problem]:
    if array.ndim != len(spec.dims):
        yield Problem(
            here,
            "array.shape",
            f"{len(spec.dims)} dimensions {spec.layout}",
            f"shape {array.shape}",
            "reorder or reshape the array to the declared layout",
        )
        return
    wrong = []
    for axis, (dim, size) in enumerate(zip(spec.dims, array.shape, strict=True)):
        if size == 0:
            yield Problem(here, "array.empty", f"at least one {dim}", f"shape {array.shape}", "provide data")
            continue
        if isinstance(dim, int):
            expected, words = dim, f"axis {axis} of size {dim}"
        else:
            expected, owner = sizes.setdefault(dim, (size, spec.name))
            words = f"axis {axis} ('{dim}') of size {expected} as in {owner}"
        if size != expected:
            wrong.append(words)
    if wrong:
        yield Problem(here, "array.shape", " and ".join(wrong), f"shape {array.shape}", "make the sizes agree")


def _content_problems(array: NDArray[Any], spec: ArraySpec, here: str) -> Iterator[Problem]:
    not_finite = below = 0
    # Unsigned values need no check, so that patterns in a memory map stay unread.
    check_finite = array.dtype.kind in "fc" and spec.finite
    check_minimum = spec.minimum is not None and array.dtype.kind in ("fi" if spec.minimum <= 0 else "fiu")
    for block in _blocks(array) if check_finite or check_minimum else ():
        if check_finite:
            good = np.isfinite(block)
            not_finite += block.size - int(np.count_nonzero(good))
        if check_minimum:
            below += int(np.count_nonzero(block < spec.minimum))
    if not_finite:
        yield Problem(
            here,
            "array.not_finite",
            "finite values",
            f"{not_finite} NaN or infinite values",
            "mask or remove the bad values",
        )
    if below:
        yield Problem(
            here,
            "array.minimum",
            f"values >= {spec.minimum:g}",
            f"{below} smaller values",
            "check the unit and the dark-field subtraction",
        )


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows of an array in blocks of bounded memory."""
    if array.ndim == 0:
        yield array
        return
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield array[start : start + step]
