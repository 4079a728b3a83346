"""What a training learns from: which patterns, their groups, and simulated scans instead of measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, TrainingConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Groups, Scan

from ptycho_data.batches import GroupSource, PatternSource, mean_counts
from ptycho_data.fitting.probe_estimation import CALIBRATION_PATTERNS, central
from ptycho_data.grouping import HoldOut, group, held_out_indices, subsample_indices, used_indices
from ptycho_data.simulate import scans_from
from ptycho_data.store import Store
from ptycho_data.workflows.options import grouping_options

GroupsOfSource = tuple[GroupSource, Groups, Mapping[int, float]]
"""Groups with the scan or store that they are of, and its mean counts by scan."""


def training_patterns(
    source: PatternSource, data: DataConfig, training: TrainingConfig, hold_out: HoldOut = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the patterns that are used, and of those that are held out; both ascending.

    Args:
        hold_out: Indices or a fraction; default: as the options say.
    """
    held = held_out_indices(training.hold_out if hold_out is None else hold_out, len(source), training.seed)
    used = used_indices(held, len(source))
    if data.subsample is not None:
        used = subsample_indices(
            len(source),
            count=data.subsample,
            seed=training.seed,
            sequential=data.sequential,
            scan_index=source.scan_index,
            allowed=used,
        )
    return used, held


def training_groups(
    source: Store,
    used: NDArray[np.int64],
    data: DataConfig,
    training: TrainingConfig,
    means: Mapping[int, float],
    validation: Scan | None = None,
) -> tuple[GroupsOfSource, GroupsOfSource]:
    """Groups to train on and groups for val_loss (TRN-5), each with its source and mean counts.

    Args:
        source: The store to learn from.
        used: Indices of its patterns that may be in a group.
        means: Mean counts by scan of these.
        validation: Scan whose groups give val_loss; default: a fraction of the training's groups.

    Raises:
        ContractError: a validation scan of another pattern size, or no group left for one of the two.
    """
    groups = source.groups(
        n_groups=data.n_groups,
        oversampling=data.oversampling,
        seed=training.seed,
        allowed=used,
        **grouping_options(data),
    )
    if validation is not None:
        if validation.N != data.N:
            raise ContractError(
                Problem(
                    str(validation.metadata.get("source", "validation")),
                    "scan.size",
                    f"patterns of {data.N} x {data.N}",
                    f"{validation.N} x {validation.N}",
                    "validate on patterns of the training's size",
                )
            )
        theirs = group(
            validation.positions_px, seed=training.seed, scan_index=validation.scan_index, **grouping_options(data)
        )
        return (source, groups, means), (validation, theirs, mean_counts(validation))
    count = max(1, round(training.val_fraction * len(groups)))
    if training.val_fraction == 0 or count >= len(groups):
        raise ContractError(
            Problem(
                "training.val_fraction",
                "training.no_validation",
                "at least one group to train on and one for val_loss",
                f"val_fraction {training.val_fraction:g} of {len(groups)} groups",
                "raise n_groups or val_fraction, or give a validation scan",
            )
        )
    order = np.random.default_rng(training.seed).permutation(len(groups))
    fitted, validating = np.sort(order[count:]), np.sort(order[:count])
    return (source, subset(groups, fitted), means), (source, subset(groups, validating), means)


def subset(groups: Groups, rows: NDArray[np.int64]) -> Groups:
    """Some of the groups."""
    return Groups(**{row.name: getattr(groups, row.name)[rows] for row in fields(groups)})


def synthetic_scans(
    scan: Scan,
    probe: NDArray[np.complex64],
    used: NDArray[np.int64],
    means: Mapping[int, float],
    training: TrainingConfig,
) -> Scan:
    """Simulated objects with the first scan's probe, positions and dose (TRN-13).

    Args:
        scan: What was measured.
        probe: (K, N, N), any scale.
        used: Indices of its patterns that may be used.
        means: Mean counts by scan of these.
    """
    mine = used[scan.scan_index[used] == scan.scan_index[used][0]]
    mine = central(scan.positions_px, mine, CALIBRATION_PATTERNS)
    return scans_from(
        scan.positions_px[mine],
        probe,
        count=training.synthetic,
        seed=training.seed,
        photons_per_pattern=means[int(scan.scan_index[mine][0])],
    )
