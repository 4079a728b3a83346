"""Flags generated from the one schema of options (specs/cli.md, CLI-1 to CLI-5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token
from ptycho_contracts.config import (
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    Option,
    ReconstructionConfig,
    TrainingConfig,
)
from ptycho_contracts.effects import GROUPING, read_options
from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.options import schema

TRAIN_SECTIONS = (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig)
INFER_SECTIONS = (DataConfig, InferenceConfig, ExecutionConfig)
RECONSTRUCT_SECTIONS = (DataConfig, ReconstructionConfig, ExecutionConfig)

TRAIN_OPTIONS = read_options("train")
INFER_OPTIONS = tuple(row for row in read_options("infer") if row.name not in GROUPING)
RECONSTRUCT_OPTIONS = read_options("reconstruct")
EVALUATE_OPTIONS = read_options("evaluate")
IMPORT_OPTIONS = schema(ImportOptions)
OPTIONS_OF = {
    "train": TRAIN_OPTIONS,
    "infer": INFER_OPTIONS,
    "reconstruct": RECONSTRUCT_OPTIONS,
    "evaluate": EVALUATE_OPTIONS,
    "import": IMPORT_OPTIONS,
}
"""Options of the schema that each command reads."""

_TITLES = {
    "data": "Data",
    "model": "Network",
    "training": "Training",
    "inference": "Inference",
    "reconstruction": "Joint reconstruction",
    "execution": "Execution",
    "import": "What the files do not say",
}
_COMMON = Group("Most used", sort_key=9)
_GROUPS = {section: Group(title, sort_key=place) for place, (section, title) in enumerate(_TITLES.items(), start=10)}


def whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """The integer that a flag gives; a fraction is none, not even 2.0 (CLI-60). cyclopts would round it."""
    return int(tokens[0].value)


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
            help=_help(row),
            group=_COMMON if row.common else _GROUPS[row.section],
            converter=whole_number if row.type is int else None,
        ),
    ]


def _help(row: Option) -> str:
    default = f" (default: {default_words(row)})" if row.default is not None else ""
    return row.help + default + (f". When: {row.when}" if row.when else "")


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
