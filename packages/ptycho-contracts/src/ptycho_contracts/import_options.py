"""What a user can tell about a file that does not say it itself: the options of ``import`` (specs/files.md, DOOR-7)."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

from ptycho_contracts.options import Section, option, schema


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Section):
    """Answers to what a file leaves open; by default as the file, or the mapping, says."""

    section: typing.ClassVar[str] = "import"

    patterns: str | None = option(None, "key of the patterns")
    axes: str | None = option(
        None, "axes of the patterns in their order: 'pattern y x', 'y x pattern', 'row column y x' or others of these"
    )
    positions: str | None = option(None, "key of the positions, two keys X,Y, or a file of their own")
    position_unit: str | None = option(
        None,
        "unit of the positions; px: object pixels of the patterns as stored",
        choices=("px", "m", "mm", "um", "nm", "A", "pm"),
    )
    raster: str | None = option(None, "ROWS,COLUMNS of a raster that is generated")
    step: str | None = option(None, "step of the raster in the unit of the positions, or ROWSTEP,COLUMNSTEP")
    serpentine: bool = option(False, "every other row of the raster runs backwards")
    turn: str | None = option(None, "change of the position axes as inspect --orientation prints it: x'=y, y'=-x")
    rotate: float | None = option(None, "degrees by which positions are rotated from x towards y, after the turn")
    energy: str | None = option(None, "photon energy with its unit, such as 8.8keV")
    kv: float | None = option(None, "electrons: accelerating voltage in kV", minimum=1.0, maximum=3000.0)
    distance: str | None = option(None, "sample to detector, with its unit, such as 2.3m")
    detector_pixel: str | None = option(None, "detector pixel, such as 75um; for electrons also an angle: 0.5mrad")
    object_pixel: str | None = option(None, "object pixel of the patterns as stored, such as 12nm, instead of these")
    zero_frequency: str | None = option(None, "where it is stored: centre, corner, measured, or Y,X")
    centre: str | None = option(None, "auto, or Y,X: detector pixel that becomes the middle of the patterns")
    crop: int | None = option(None, "side in detector pixels of a square around the centre", minimum=8)
    bin: int | None = option(None, "detector pixels per side that are summed into one", minimum=1)
    mask: str | None = option(
        None, "auto (marked, dead and hot pixels), or a file of an image that is not 0 at bad pixels"
    )
    pad: int | None = option(
        None, "side N of the patterns after crop and bin; pixels that are added are bad", minimum=8
    )
    dark: str | None = option(None, "file of a dark image, which is subtracted")
    flat: str | None = option(
        None, "file of a flat field, by which the patterns are divided, relative to its mean; its dark is subtracted"
    )
    threshold: float | None = option(None, "values below it become 0", above=0.0)
    select: str | None = option(None, "patterns that are used: START:STOP or START:STOP:STEP")

    @property
    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            row.name: getattr(self, row.name)
            for row in schema(type(self))
            if getattr(self, row.name) not in (None, False)
        }
