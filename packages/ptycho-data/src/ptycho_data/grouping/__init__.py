"""Positions to groups of neighbouring patterns, and which patterns are used (specs/grouping.md)."""

from ptycho_data.grouping.groups import GROUPING_VERSION, group, groups_at
from ptycho_data.grouping.selection import (
    HoldOut,
    held_out_indices,
    subsample_indices,
    used_indices,
    validation_indices,
)

__all__ = [
    "GROUPING_VERSION",
    "HoldOut",
    "group",
    "groups_at",
    "held_out_indices",
    "subsample_indices",
    "used_indices",
    "validation_indices",
]
