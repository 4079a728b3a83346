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

    patterns: str | None = option(None, "key of the patterns", when="several arrays look like patterns", common=True)
    axes: str | None = option(
        None,
        "axes of the patterns in their order: 'pattern y x', 'y x pattern', 'row column y x' or others of these",
        when="the guess of the axes is wrong",
    )
    positions: str | None = option(
        None,
        "key of the positions, two keys X,Y, or a file of their own",
        when="they are in a file of their own, or the guess is wrong",
        common=True,
    )
    position_unit: str | None = option(
        None,
        "unit of the positions; px: object pixels of the patterns as stored",
        when="the file does not say it",
        common=True,
        choices=("px", "m", "mm", "um", "nm", "A", "pm"),
    )
    raster: str | None = option(
        None, "ROWS,COLUMNS of a raster that is generated", when="a raster without stored positions", common=True
    )
    step: str | None = option(
        None,
        "step of the raster in the unit of the positions, or ROWSTEP,COLUMNSTEP",
        when="with raster, or for an array of four axes",
        common=True,
    )
    serpentine: bool = option(
        False, "every other row of the raster runs backwards", when="rows that were scanned to and fro"
    )
    turn: str | None = option(
        None,
        "change of the position axes as inspect --orientation prints it: x'=y, y'=-x",
        when="`inspect --orientation` names another turn than none",
        common=True,
    )
    rotate: float | None = option(
        None,
        "degrees by which positions are rotated from x towards y, after the turn",
        when="electrons, or a stage that is turned against the detector",
    )
    energy: str | None = option(
        None, "photon energy with its unit, such as 8.8keV", when="the file does not say it", common=True
    )
    kv: float | None = option(
        None,
        "accelerating voltage of electrons in kV",
        when="an electron microscope, instead of energy",
        minimum=1.0,
        maximum=3000.0,
    )
    distance: str | None = option(
        None, "sample to detector, with its unit, such as 2.3m", when="the file does not say it", common=True
    )
    detector_pixel: str | None = option(
        None,
        "detector pixel, such as 75um; for electrons also an angle: 0.5mrad",
        when="the file does not say it",
        common=True,
    )
    object_pixel: str | None = option(
        None,
        "object pixel of the patterns as stored, such as 12nm, instead of these",
        when="energy, distance or detector pixel are not known",
    )
    zero_frequency: str | None = option(
        None,
        "where it is stored: centre, corner, measured, or Y,X",
        when="patterns that were stored as they come from an FFT",
    )
    centre: str | None = option(
        None,
        "auto, or Y,X: detector pixel that becomes the middle of the patterns",
        when="`inspect` says that the patterns are off centre",
    )
    crop: int | None = option(
        None,
        "side in detector pixels of a square around the centre",
        when="a detector larger than its lit part",
        minimum=8,
    )
    bin: int | None = option(
        None, "detector pixels per side that are summed into one", when="pixels finer than the probe needs", minimum=1
    )
    mask: str | None = option(
        None,
        "auto (marked, dead and hot pixels), or a file of an image that is not 0 at bad pixels",
        when="a detector with dead or hot pixels, gaps or a beamstop",
    )
    pad: int | None = option(
        None,
        "side N of the patterns after crop and bin; pixels that are added are bad",
        when="another size is wanted, such as that of a trained model",
        minimum=8,
    )
    dark: str | None = option(None, "file of a dark image, which is subtracted", when="a detector that integrates")
    flat: str | None = option(
        None,
        "file of a flat field, by which the patterns are divided, relative to its mean; its dark is subtracted",
        when="a detector whose pixels differ in gain",
    )
    threshold: float | None = option(None, "values below it become 0", when="readout noise below one photon", above=0.0)
    select: str | None = option(
        None,
        "patterns that are used: START:STOP or START:STOP:STEP",
        when="frames before or after the scan, or a quick try",
    )

    @property
    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            row.name: getattr(self, row.name)
            for row in schema(type(self))
            if getattr(self, row.name) not in (None, False)
        }
