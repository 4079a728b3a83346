"""Flags generated from the one schema of options (specs/cli.md, CLI-1 to CLI-5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
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
)

TRAIN_SECTIONS = (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig)
INFER_SECTIONS = (DataConfig, InferenceConfig, ExecutionConfig)
RECONSTRUCT_SECTIONS = (DataConfig, ReconstructionConfig, ExecutionConfig)

_MEASUREMENT = ("measurement", "nphotons")
_FIT = ("enable_progress_bar", "enable_checkpointing", "early_stop_patience")


def offered(
    sections: Iterable[type[Section]], *, only: Collection[str] = (), without: Collection[str] = ()
) -> tuple[Option, ...]:
    """Options of the sections, in order; ``only`` limits data and execution options to those named."""
    return tuple(
        row
        for section in sections
        for row in schema(section)
        if row.name not in without and (not only or section not in (DataConfig, ExecutionConfig) or row.name in only)
    )


TRAIN_OPTIONS = offered(TRAIN_SECTIONS, without=("inference_batch_size",))
INFER_OPTIONS = offered(
    INFER_SECTIONS, only=(*_MEASUREMENT, "accelerator", "num_workers", "inference_batch_size", *_FIT)
)
RECONSTRUCT_OPTIONS = offered(RECONSTRUCT_SECTIONS, only=(*_MEASUREMENT, "accelerator", *_FIT))
EVALUATE_OPTIONS = tuple(row for row in RECONSTRUCT_OPTIONS if row.name != "enable_checkpointing")
OPTIONS_OF = {
    "train": TRAIN_OPTIONS,
    "infer": INFER_OPTIONS,
    "reconstruct": RECONSTRUCT_OPTIONS,
    "evaluate": EVALUATE_OPTIONS,
}
"""Options of the schema that each command reads."""

_TITLES = {
    "data": "Data",
    "model": "Network",
    "training": "Training",
    "inference": "Inference",
    "reconstruction": "Joint reconstruction",
    "execution": "Execution",
}
_GROUPS = {section: Group(title, sort_key=place) for place, (section, title) in enumerate(_TITLES.items(), start=10)}


def negative_flag(row: Option) -> str | None:
    """The flag that switches a boolean option off."""
    if row.type is not bool:
        return None
    return row.negative_flag or "--no-" + row.flag.removeprefix("--")


def default_words(row: Option) -> str:
    """The default as help and tables show it: the flag for booleans, ``none`` for None."""
    if row.default is None:
        return "none"
    if row.type is bool:
        return row.flag if row.default else str(negative_flag(row))
    return f"{row.default:g}" if row.type is float else str(row.default)


def annotation(row: Option) -> Any:
    """The cyclopts annotation of one option; every option is optional, so that only given ones count."""
    kind: Any = Literal[row.choices] if row.choices else row.type
    negative = negative_flag(row)
    return Annotated[
        kind | None,
        Parameter(
            name=(row.flag,),
            negative=(negative,) if negative else (),
            help=row.help + (f" (default: {default_words(row)})" if row.default is not None else ""),
            group=_GROUPS[row.section],
        ),
    ]


def with_options(rows: tuple[Option, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one flag for each option.

    The decorated function receives the given ones, and only those, as the mapping ``overrides``;
    its other parameters stay as they are.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
            if name != "overrides"
        ]
        generated = [
            inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation(row))
            for row in rows
        ]

        def command(*args: Any, **kwargs: Any) -> Any:
            overrides = {row.name: kwargs.pop(row.name) for row in rows if kwargs.get(row.name) is not None}
            for row in rows:
                kwargs.pop(row.name, None)
            return function(*args, overrides=overrides, **kwargs)

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]
        return command

    return decorate
