"""Inference from coarse to fine in TensorFlow; what holds for both backends stands in ``coarse_to_fine``."""

from __future__ import annotations

from coarse_to_fine import CoarseToFine


class TestCoarseToFine(CoarseToFine):
    """NET-12 and IMG-8, in TensorFlow."""
