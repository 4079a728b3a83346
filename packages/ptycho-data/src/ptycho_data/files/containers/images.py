"""Pictures of detectors: TIFF by tifffile, EDF and CBF by fabio, both optional (specs/files.md, DOOR-5)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.files.containers.npy import native
from ptycho_data.files.containers.zipped import LARGEST_RATIO, RATIO_FREE_BYTES
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file

KEY = "image"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FABIO = (b"###CBF", b"{")


def is_image(path: Path) -> bool:
    """Whether the file begins as TIFF, CBF or EDF."""
    with path.open("rb") as stream:
        head = stream.read(512)
    return head[:4] in _TIFF or head.startswith(_FABIO[0]) or (head.startswith(_FABIO[1]) and b"=" in head)


class ImageFile:
    """The pages or frames of one picture file, as one array.

    Raises:
        MissingFileError: no such file.
        ContractError: the reader is not installed, or the file is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = checked_file(path)
        with self.path.open("rb") as stream:
            self._is_tiff = stream.read(4) in _TIFF

    def listed(self) -> list[tuple[str, tuple[int, ...], np.dtype[Any], None]]:
        """The one array of the file: (y, x), or (page, y, x) of several pages."""
        with self._opened() as (pages, shape, dtype):
            count = () if len(pages) == 1 else (len(pages),)
            return [(KEY, (*count, *shape), dtype, None)]

    def array(self, key: str) -> NDArray[Any] | None:
        """The pages as one array.

        Raises:
            ContractError: pages of different shapes, too little memory, or damage.
        """
        if key != KEY:
            return None
        with self._opened() as (pages, shape, dtype):
            self._check(len(pages), shape, dtype)
            stack = np.empty((len(pages), *shape), dtype)
            for number, page in enumerate(pages):
                image = page.asarray() if self._is_tiff else page.data
                if image.shape != shape:
                    raise ValueError(f"page {number} of shape {image.shape} after {shape}")
                stack[number] = image
        return native(stack[0] if len(stack) == 1 else stack)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, tuple[int, ...], np.dtype[Any]]]:
        """The pages with shape and dtype of the first; whatever a reader raises is one error."""
        try:
            if self._is_tiff:
                from tifffile import TiffFile

                # Pages only: series may lead to other files that the picture names.
                with TiffFile(self.path) as file:
                    first = file.pages[0]
                    if len(first.shape) != 2:
                        raise ValueError(f"pages of shape {first.shape}, expected one channel (y, x)")
                    yield file.pages, tuple(first.shape), np.dtype(first.dtype)
            else:
                import fabio

                with fabio.open(str(self.path)) as file:
                    frames = [file.get_frame(number) for number in range(file.nframes)]
                    yield frames, tuple(frames[0].data.shape), frames[0].data.dtype
        except ContractError:
            raise
        except ImportError as error:
            extra = "tiff" if self._is_tiff else "fabio"
            raise ContractError(
                Problem(
                    str(self.path),
                    "image.reader",
                    f"the reader of {'TIFF' if self._is_tiff else 'EDF and CBF'} files",
                    "none installed",
                    f"pip install 'ptycho-data[{extra}]'",
                )
            ) from error
        except Exception as error:
            raise ContractError(
                Problem(
                    str(self.path),
                    "image.damaged",
                    "an intact picture of one channel",
                    f"{type(error).__name__}: {error}".split("\n")[0][:200],
                    "copy or write it again",
                )
            ) from error

    def _check(self, pages: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        needed = pages * math.prod(shape) * dtype.itemsize
        limit = max(RATIO_FREE_BYTES, LARGEST_RATIO * self.path.stat().st_size)
        if needed > limit:
            raise ContractError(
                Problem(
                    str(self.path),
                    "image.bomb",
                    f"at most {LARGEST_RATIO} times its stored size",
                    f"a file that claims to unpack to {needed} bytes",
                    "refused as a decompression bomb; if it is genuine, store it uncompressed",
                )
            )
        if needed > RATIO_FREE_BYTES:  # thousands of frames are asked once, for all of them
            require_memory(needed, where=str(self.path), remedy="use a machine with more memory or split the scan")
