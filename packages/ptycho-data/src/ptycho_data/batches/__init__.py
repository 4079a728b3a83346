"""Patterns as they are read for the work: groups, streams, truths (specs/store.md, BATCH)."""

from ptycho_data.batches.gathering import GroupSource, PatternSource, gather, mean_counts
from ptycho_data.batches.group_batches import GroupBatches, common_canvas_shape
from ptycho_data.batches.moduli import ModuliStream, normalised_intensity
from ptycho_data.batches.read_ahead import read_ahead

__all__ = [
    "GroupBatches",
    "GroupSource",
    "ModuliStream",
    "PatternSource",
    "common_canvas_shape",
    "gather",
    "mean_counts",
    "normalised_intensity",
    "read_ahead",
]
