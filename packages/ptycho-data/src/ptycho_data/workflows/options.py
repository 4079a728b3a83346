"""Sections of the configuration as parameters of the functions that they steer."""

from __future__ import annotations

from typing import Any

from ptycho_contracts.config import DataConfig, ReconstructionConfig

POSITION_STEP_PX = 0.1
"""Adam step of positions that are corrected."""
BACKGROUND_STEP = 0.02
"""Adam step of a background's square root, in units of the root mean intensity of a pixel."""


def grouping_options(data: DataConfig) -> dict[str, Any]:
    """Options of :func:`ptycho_data.grouping.groups.group` by the names of its parameters; how many groups is not in them."""
    return {
        "gridsize": data.gridsize,
        "neighbor_count": data.K,
        "min_distance_px": data.min_distance_px,
        "max_distance_px": data.max_distance_px,
        "sequential": data.sequential,
    }


def descent_options(config: ReconstructionConfig) -> dict[str, Any]:
    """Options of a joint descent (PHY-27, PHY-28) by the names of its parameters; how long it lasts is not in them."""
    names = ("batch_size", "object_learning_rate", "probe_learning_rate", "loss", "seed")
    return {name: getattr(config, name) for name in names} | {
        "position_learning_rate": POSITION_STEP_PX if config.correct_positions else 0.0,
        "background_learning_rate": BACKGROUND_STEP if config.fit_background else 0.0,
    }
