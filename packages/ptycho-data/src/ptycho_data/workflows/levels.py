"""A scan's levels, from coarse to fine: the object of the coarse ones is where the full one begins (PHY-34, PHY-35)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.physics import PassSchedule

from ptycho_data.batches import ModuliStream
from ptycho_data.canvas import (
    CanvasGeometry,
    Sites,
    canvas_geometry,
    central_part,
    illumination,
    level_probe,
    on_level,
    photons_per_pixel,
    scan_sites,
    sparse_subsets,
)
from ptycho_data.deadline import Deadline, TimeOver
from ptycho_data.fitting import Prior
from ptycho_data.stages import Progress, changed
from ptycho_data.workflows.backend import Backend, CanvasTask
from ptycho_data.workflows.prepared_scan import PreparedScan


@dataclass(frozen=True, eq=False)
class Level:
    """A resolution of a scan (PHY-34): side of its patterns, probe, canvas, sites of the used patterns, subsets."""

    side: int
    probe: NDArray[np.complex64]
    geometry: CanvasGeometry
    sites: Sites
    subsets: list[NDArray[np.int64]]

    @classmethod
    def of(cls, prepared: PreparedScan, probe: NDArray[np.complex64], side: int, most: int | None = None) -> Level:
        """The level of a side; the full one has the scan's canvas.

        Args:
            probe: (K, N, N) of the full level.
            most: Most patterns in a subset; default: chosen from the overlap.
        """
        N, geometry, positions_px = prepared.source.N, prepared.geometry, prepared.positions_px
        if side < N:
            positions_px = positions_px * (side / N)
            probe, geometry = level_probe(probe, side), canvas_geometry(positions_px, side)
        sites = scan_sites(positions_px[prepared.used], geometry, side)
        return cls(side, probe, geometry, sites, sparse_subsets(probe, sites, most=most))

    @cached_property
    def light(self) -> NDArray[np.float32]:
        """(H, W) illumination of the canvas by the used patterns."""
        return illumination(self.probe, self.sites)

    def task(
        self,
        prepared: PreparedScan,
        *,
        passes: int,
        num_workers: int = 0,
        device: str = "cpu",
        start: NDArray[np.complex64] | None = None,
        prior: Prior | None = None,
        progress: Progress | None = None,
    ) -> CanvasTask:
        """Passes over the used patterns on this level's canvas; its ``moduli`` are to be opened."""
        bad_pixels = prepared.source.bad_pixels
        moduli = ModuliStream(
            prepared.source,
            [prepared.used[subset] for subset in self.subsets],
            passes=passes,
            mean_counts=prepared.mean_counts,
            side=self.side,
            workers=num_workers,
            progress=progress,
        )
        return CanvasTask(
            moduli=moduli,
            sites=self.sites,
            subsets=self.subsets,
            device=device,
            bad_pixels=None if bad_pixels is None else central_part(bad_pixels, self.side),
            start=start,
            prior=prior,
            light=lambda: self.light,
        )


def light_of(prepared: PreparedScan, probe: NDArray[np.complex64]) -> float:
    """Photons per illuminated object pixel, of the used patterns."""
    light = illumination(probe, prepared.sites[prepared.used])
    return photons_per_pixel(light, prepared.mean_counts * len(prepared.used))


def object_from_levels(
    backend: Backend,
    prepared: PreparedScan,
    levels: Sequence[Level],
    schedule: PassSchedule,
    *,
    num_workers: int = 0,
    device: str = "cpu",
    prior: Prior | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> NDArray[np.complex64]:
    """Passes without a network at coarse levels, each from the object of the one before (NET-12).

    Args:
        levels: The coarsest first; at least one.
        schedule: Of the passes at each.
        num_workers: Threads that read patterns ahead.
        prior: Of the object at full resolution; a coarse level has more light in each of its pixels.
        deadline: When it must have ended; then the object is that of the levels that are done, and says so.
        progress: Called with the steps of all these levels.

    Returns:
        (h, w) on the canvas of the last level.

    Raises:
        TimeOver: no level is done.
    """
    until = deadline or Deadline()
    steps = [schedule.passes * len(level.subsets) for level in levels]
    object_, before = None, 0
    for number, level in enumerate(levels):
        start = None if object_ is None else lifted(object_, levels[number - 1], level)
        task = level.task(
            prepared,
            passes=schedule.passes,
            num_workers=num_workers,
            device=device,
            start=start,
            prior=None if prior is None else prior.with_light((prepared.source.N / level.side) ** 2),
            progress=until.watched(continued(progress, before, sum(steps))),
        )
        try:
            with task.moduli:
                object_ = backend.passes_on_canvas(level.probe, task, schedule)
        except TimeOver:
            if start is None:
                raise
            until.note(f"coarse levels: {number} of {len(levels)}")
            for place in range(number + 1, len(levels)):
                start = lifted(start, levels[place - 1], levels[place])
            return start
        before += steps[number]
    assert object_ is not None
    return object_


def lifted(object_: NDArray[np.complex64], below: Level, level: Level) -> NDArray[np.complex64]:
    """An object of a coarse level on the canvas of a finer one."""
    return on_level(object_, below.geometry, level.geometry, ratio=below.side / level.side)


def continued(progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of one part of a work as that of all of it."""
    return changed(progress, lambda stage, done, _: (stage, before + done, total))
