"""Reconstructions as TIFF of single precision, for ImageJ and other viewers (specs/files.md, OUT-6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ptycho_contracts.records import Reconstruction

from ptycho_data.atomic_files import atomic_write

LABELS = ("amplitude", "phase [rad]")


def write(path: Path, reconstruction: Reconstruction, *, pixel_size_m: float | None) -> None:
    """Write two pages, amplitude and phase in rad, with the pixel size in the tags that ImageJ reads.

    The phase is that of the array, ramp included: amplitude and phase give the object back. Pixels that
    were never illuminated are NaN.

    Args:
        path: The file to write.
        reconstruction: What to write.
        pixel_size_m: Side of an object pixel, or None: unknown.
    """
    from tifffile import imwrite

    pages = np.stack([np.abs(reconstruction.object), np.angle(reconstruction.object)]).astype(np.float32)
    pages[:, reconstruction.weight <= 0] = np.nan
    y, x = (float(value) for value in reconstruction.origin_yx_px)
    notes: dict[str, Any] = {"axes": "CYX", "mode": "grayscale", "Labels": list(LABELS)}
    notes |= {"origin_x_px": x, "origin_y_px": y}
    options: dict[str, Any] = {}
    if pixel_size_m is not None:
        notes |= {"unit": "nm", "pixel_size_m": pixel_size_m}
        options["resolution"] = (1e-9 / pixel_size_m,) * 2
    with atomic_write(path) as temporary:
        imwrite(temporary, pages, imagej=True, photometric="minisblack", metadata=notes, **options)
