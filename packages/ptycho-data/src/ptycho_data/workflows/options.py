"""Sections of the configuration as parameters of the functions that they configure."""

from __future__ import annotations

from typing import Any

import numpy as np
from ptycho_contracts.config import DataConfig, ReconstructionConfig
from ptycho_contracts.records import Scan

POSITION_STEP_PX = 0.1
"""Adam step of positions that are corrected: a pixel takes ten steps. Measured: 0.3 made positions of the
Siemens star jump; on synth64 rates from 0.03 to 0.4 gave no better positions (benchmarks/RESULTS.md)."""
BACKGROUND_STEP = 0.02
"""Adam step of a background's square root, in units of the root mean intensity of a pixel."""


def grouping_options(data: DataConfig) -> dict[str, Any]:
    """Options of :func:`ptycho_data.grouping.group` by the names of its parameters; the number of groups is extra."""
    return {
        "gridsize": data.gridsize,
        "neighbor_count": data.K,
        "min_distance_px": data.min_distance_px,
        "max_distance_px": data.max_distance_px,
        "sequential": data.sequential,
    }


def joint_options(config: ReconstructionConfig) -> dict[str, Any]:
    """Options of a joint reconstruction (PHY-27, PHY-28) by the names of its parameters; its length is extra."""
    names = ("batch_size", "object_learning_rate", "probe_learning_rate", "loss", "seed")
    return {name: getattr(config, name) for name in names} | {
        "position_learning_rate": POSITION_STEP_PX if config.correct_positions else 0.0,
        "background_learning_rate": BACKGROUND_STEP if config.fit_background else 0.0,
    }


def default_group_count(scan: Scan, subsample: int | None) -> int:
    """Number of groups if neither ``n_groups`` nor ``oversampling`` is given: one per pattern that may be chosen.

    Args:
        scan: The training scans, combined.
        subsample: Patterns of each scan to use, or None for all.
    """
    _, counts = np.unique(scan.scan_index, return_counts=True)
    return int(sum(count if subsample is None else min(int(count), subsample) for count in counts))
