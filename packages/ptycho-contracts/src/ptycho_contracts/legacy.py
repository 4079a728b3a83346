"""Fill a flat dictionary with the key names of older scripts (specs/config.md, CFG-17 to CFG-21)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from ptycho_contracts.config import (
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    Resolved,
    Section,
    TrainingConfig,
    to_dict,
)
from ptycho_contracts.problems import ContractError, Problem

FilePath = str | os.PathLike[str]


def update_legacy_dict(
    cfg: MutableMapping[str, Any],
    config: Section | Resolved | Iterable[Section] | Mapping[Any, Section],
    *,
    output_dir: FilePath | None = None,
    train_data_file: FilePath | None = None,
    test_data_file: FilePath | None = None,
) -> None:
    """Write options into a caller's flat dictionary, in place, once, before any data is read.

    This suite never reads the dictionary back. Each option is written under its own name; the further
    keys, such as ``object.big``, describe the behaviour of this suite (table CFG-20). None leaves an entry
    as it is, and paths become strings.

    Args:
        cfg: The dictionary to fill.
        config: One section or several; the execution configuration is skipped.
        output_dir: Written as ``output_prefix``.
        train_data_file: Written as ``train_data_file_path``.
        test_data_file: Written as ``test_data_file_path``.

    Raises:
        ContractError: an argument that is not a section, or two sections that give one key different
            values; ``cfg`` is then untouched.
    """
    new: dict[str, Any] = {
        "output_prefix": output_dir,
        "train_data_file_path": train_data_file,
        "test_data_file_path": test_data_file,
    }
    owners: dict[str, str] = {}
    problems: list[Problem] = []
    for section in _sections(config):
        for key, value in _entries(section).items():
            if key in owners and new[key] != value:
                found = f"{new[key]!r} in '{owners[key]}' and {value!r} in '{section.section}'"
                problems.append(Problem(key, "legacy.conflict", "one value", found, "give one of these sections"))
            else:
                new[key], owners[key] = value, section.section
    if problems:
        raise ContractError(problems)
    cfg.update(
        {
            key: os.fspath(value) if isinstance(value, os.PathLike) else value
            for key, value in new.items()
            if value is not None
        }
    )


def _sections(config: Any) -> list[Section]:
    if isinstance(config, Resolved):
        config = config.sections
    if isinstance(config, Section):
        config = [config]
    members = list(config.values()) if isinstance(config, Mapping) else config
    members = list(members) if isinstance(members, Iterable) else [members]
    strangers = [member for member in members if not isinstance(member, Section)]
    if strangers:
        raise ContractError(
            Problem(
                "config",
                "legacy.type",
                "sections of ptycho_contracts.config",
                type(member).__name__,
                "pass a section, or several",
            )
            for member in strangers
        )
    return [member for member in members if not isinstance(member, ExecutionConfig)]


def _entries(section: Section) -> dict[str, Any]:
    """Legacy keys and values of one section; a model brings those of its data."""
    entries = to_dict(section)
    if isinstance(section, DataConfig):
        entries["positions.provided"] = True
    if isinstance(section, ModelConfig):
        entries |= _entries(section.data)
        entries |= {"model_type": "pinn", "object.big": True, "probe.big": True, "probe.mask": False}
        entries["intensity_scale.trainable"] = False
    if isinstance(section, TrainingConfig):
        entries["nepochs"] = section.epochs
        entries["probe.trainable"] = section.calibrate_probe is not False
    if isinstance(section, InferenceConfig):
        # The refinement's own fraction, besides that of the training.
        entries["refine_val_fraction"] = entries.pop("val_fraction")
    return entries
