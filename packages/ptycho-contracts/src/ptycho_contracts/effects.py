"""Which options each command reads, and which have no effect beside others (specs/config.md, CFG-24 to CFG-27).

One table for the command line, the functions in Python and the factories: an option that somebody gave and that
nothing would obey is one kind of error, ``config.no_effect``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ptycho_contracts.config import (
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    Option,
    ReconstructionConfig,
    Section,
    TrainingConfig,
    schema,
    to_dict,
)
from ptycho_contracts.problems import ContractError, Problem

CODE = "config.no_effect"

_READING = ("measurement", "nphotons")
_NEIGHBOURS = ("neighbor_count", "min_distance_px", "max_distance_px")
GROUPING = ("N", "gridsize", "n_groups", "oversampling", "sequential", *_NEIGHBOURS)
"""Options with which ``infer`` makes groups; most come from the model."""
_FIT = ("enable_progress_bar", "enable_checkpointing", "early_stop_patience")

_COMMANDS: Mapping[str, tuple[tuple[type[Section], ...], tuple[str, ...]]] = {
    "train": (
        (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig),
        tuple(
            row.name
            for section in (DataConfig, ExecutionConfig)
            for row in schema(section)
            if row.name != "inference_batch_size"
        ),
    ),
    "infer": (
        (DataConfig, InferenceConfig, ExecutionConfig),
        (*_READING, *GROUPING, "accelerator", "num_workers", "inference_batch_size", *_FIT),
    ),
    "reconstruct": ((DataConfig, ReconstructionConfig, ExecutionConfig), (*_READING, "accelerator", *_FIT)),
    "evaluate": (
        (DataConfig, ReconstructionConfig, ExecutionConfig),
        (*_READING, "accelerator", "enable_progress_bar", "early_stop_patience"),
    ),
    "convert": ((DataConfig,), _READING),
    "evaluate beside a truth": ((DataConfig, ExecutionConfig), (*_READING, "enable_progress_bar")),
}
"""For each command the sections that it reads, and the options of data and execution that it reads of them."""

_JOINT = ("infer", "reconstruct", "evaluate")


@dataclass(frozen=True, slots=True)
class Rule:
    """Options that do nothing beside another one.

    Attributes:
        commands: Where the rule holds.
        options: Names of the options without effect.
        beside: Beside what, in words.
        because: Why.
        holds: Whether it is so, from all options by name and what is known of the input (:func:`require_effects`).
    """

    commands: tuple[str, ...]
    options: tuple[str, ...]
    beside: str
    because: str
    holds: Callable[[Mapping[str, Any]], bool]


RULES: tuple[Rule, ...] = (
    Rule(
        ("train",),
        ("iterations", "passes"),
        "`architecture=cnn`",
        "only the unrolled network has rounds of physics",
        lambda known: known["architecture"] == "cnn",
    ),
    Rule(
        ("train", "infer"),
        _NEIGHBOURS,
        "gridsize 1",
        "a group of one pattern has no neighbours",
        lambda known: known["gridsize"] == 1,
    ),
    Rule(
        ("train", *_JOINT),
        ("val_fraction",),
        "`validation`",
        "what is given for validation validates",
        lambda known: known.get("validation") is True,
    ),
    Rule(
        ("train",),
        ("calibration_epochs",),
        "`calibrate_probe=False`",
        "the probe is kept as it is",
        lambda known: known["calibrate_probe"] is False,
    ),
    Rule(
        ("train",),
        ("calibration_epochs",),
        "a probe that the file declares exact",
        "such a probe is kept, unless `calibrate_probe` is given",
        lambda known: known["calibrate_probe"] is None and known.get("exact_probe") is True,
    ),
    Rule(
        ("train",),
        ("checkpoint_save_top_k",),
        "`enable_checkpointing=False`",
        "no checkpoints are written",
        lambda known: not known["enable_checkpointing"],
    ),
    Rule(
        ("train",),
        ("prefetch_factor",),
        "`num_workers=0`",
        "only workers load batches ahead",
        lambda known: known["num_workers"] == 0,
    ),
    Rule(
        ("infer",),
        (
            "correct_positions",
            "fit_background",
            "val_fraction",
            "prior",
            "prior_weight",
            "early_stop_patience",
            "enable_checkpointing",
        ),
        "`refine=0`",
        "nothing is fitted",
        lambda known: known["refine"] == 0,
    ),
    Rule(
        _JOINT,
        ("early_stop_patience",),
        "`val_fraction=0`",
        "a fit without validation patterns is not stopped early",
        lambda known: known["val_fraction"] == 0 and known.get("validation") is False and known.get("refine") != 0,
    ),
    Rule(
        _JOINT,
        ("prior_weight",),
        "`prior=none`",
        "there is no prior to weigh",
        lambda known: known["prior"] == "none" and known.get("refine") != 0,
    ),
    Rule(
        ("infer",),
        ("levels",),
        "`assembly=groups`",
        "only a canvas has levels",
        lambda known: known["assembly"] == "groups",
    ),
    Rule(
        ("infer",),
        ("n_groups", "oversampling", "sequential", *_NEIGHBOURS),
        "a canvas (`assembly`)",
        "a canvas takes all patterns at once, without groups",
        lambda known: known["assembly"] == "canvas",
    ),
    Rule(
        ("convert",),
        _READING,
        "an image",
        "it has no patterns; only its scan has, the `companion`",
        lambda known: known.get("patterns") is False,
    ),
    Rule(
        ("infer",),
        ("probe_source",),
        "the model 'pretrained'",
        "that model has no probe, and takes the scan's",
        lambda known: known.get("pretrained") is True,
    ),
)
"""The one table of options without effect beside others."""


def read_options(command: str) -> tuple[Option, ...]:
    """Options that a command reads, in the order of the schema.

    Args:
        command: train, infer, reconstruct, evaluate, convert, or "evaluate beside a truth".

    >>> [row.name for row in read_options("evaluate beside a truth")]
    ['nphotons', 'measurement', 'enable_progress_bar']
    """
    sections, names = _COMMANDS[command]
    return tuple(
        row
        for section in sections
        for row in schema(section)
        if section not in (DataConfig, ExecutionConfig) or row.name in names
    )


def settings_read(command: str, sections: Iterable[Section]) -> dict[str, dict[str, Any]]:
    """``{section: {option: value}}`` with the options that a command reads, and no others (CFG-27)."""
    unread = {row.name for section in (DataConfig, ExecutionConfig) for row in schema(section)}
    unread -= {row.name for row in read_options(command)}
    shared = {DataConfig.section, ExecutionConfig.section}
    return {
        one.section: {
            name: value for name, value in to_dict(one).items() if one.section not in shared or name not in unread
        }
        for one in sections
    }


def changed(*sections: Section) -> dict[str, dict[str, Any]]:
    """Options of built sections that differ from their defaults, as ``applied`` of a :class:`Resolved`."""
    return {
        row.name: {"value": getattr(section, row.name), "source": "sections"}
        for section in sections
        for row in schema(type(section))
        if getattr(section, row.name) != row.default
    }


def require_effects(
    command: str, applied: Mapping[str, Mapping[str, Any]], sections: Collection[Section], **known: Any
) -> None:
    """Refuse options that somebody gave and that nothing would obey (CFG-24 to CFG-26).

    Args:
        command: As for :func:`read_options`.
        applied: What was given, from :func:`ptycho_contracts.config.resolve` or :func:`changed`. Values that files and
            bundles state are not refused; of an execution configuration only what differs from the defaults.
        sections: The resolved sections of the command.
        known: What is known of the input, if it is: ``validation``, whether patterns that validate were given;
            ``exact_probe``, whether the scan's probe is exact; ``pretrained``, whether the model is the one that is
            shipped; ``assembly``, canvas or groups; ``patterns``, whether any are read.

    Raises:
        ContractError: ``config.no_effect``, one problem for each such option.
    """
    rows = {row.name: row for section in sections for row in schema(type(section))}
    values = {row.name: getattr(section, row.name) for section in sections for row in schema(type(section))} | known
    reads = {row.name for row in read_options(command)}
    given = {name: entry["value"] for name, entry in applied.items() if name in rows and _given(rows[name], entry)}
    problems = []
    for name, value in given.items():
        if name not in reads:
            problems.append(_problem(rows[name], value, f": {command} does not read it"))
        elif not _asks_for_nothing(value):
            rules = (rule for rule in RULES if command in rule.commands and name in rule.options)
            held = [f" beside {rule.beside}: {rule.because}" for rule in rules if rule.holds(values)]
            problems += [_problem(rows[name], value, reason) for reason in held[:1]]
    if problems:
        raise ContractError(problems)


def markdown_rules() -> str:
    """The reference table of :data:`RULES`."""
    lines = ["| options | commands | have no effect beside | because |", "| --- | --- | --- | --- |"]
    for rule in RULES:
        cells = (", ".join(f"`{name}`" for name in rule.options), ", ".join(rule.commands), rule.beside, rule.because)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _given(row: Option, entry: Mapping[str, Any]) -> bool:
    if entry["source"] == "execution":  # a whole section: it names every option
        return bool(entry["value"] != row.default)
    return entry["source"] in ("explicit", "sections") and entry["value"] is not None


def _asks_for_nothing(value: Any) -> bool:
    """Whether a value switches its option off: that is obeyed wherever the option does nothing."""
    return value in (None, False, 0, "none")


def _problem(row: Option, value: Any, reason: str) -> Problem:
    return Problem(
        where=f"{row.section}.{row.name}",
        code=CODE,
        expected="an option that has an effect",
        found=f"{value!r}, which has none{reason}",
        remedy=f"leave `{row.name}` out",
    )
