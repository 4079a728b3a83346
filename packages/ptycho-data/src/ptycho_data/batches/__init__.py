"""Patterns as they are read for the work: groups, streams, truths (specs/store.md, BATCH)."""

from ptycho_data.batches.gathering import GroupSource, PatternSource, gather, mean_counts
from ptycho_data.batches.read_ahead import read_ahead

__all__ = ["GroupSource", "PatternSource", "gather", "mean_counts", "read_ahead"]
