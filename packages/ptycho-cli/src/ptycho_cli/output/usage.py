"""What is wrong with a command line, in the words of every other error (specs/cli.md, CLI-61)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal, get_args, get_origin

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, RepeatArgumentError
from cyclopts.argument import Argument
from cyclopts.exceptions import UnknownOptionError, UnusedCliTokensError
from ptycho_contracts.problems import Problem

_LIKE = 0.7
"""Least similarity of a flag that may have been meant."""
_NUMBERS = {int: "a whole number", float: "a number"}


def usage_problem(app: App, error: CycloptsError) -> Problem | None:
    """The problem of a command line that cannot be parsed; None where the parser's own text says it best.

    Args:
        app: The program.
        error: What its parser raised.
    """
    command = next(iter(error.command_chain or ()), None)
    if command is None:
        return None
    here = _flags(app, command)
    if isinstance(error, UnknownOptionError):
        return _unknown(app, command, here, (error.token.keyword or error.token.value).partition("=")[0])
    if isinstance(error, UnusedCliTokensError):
        names = " ".join(name for argument in _arguments(app, command) for name in _positional(argument))
        left = " ".join(error.unused_tokens or ())
        return Problem(command, "usage.files", f"{names} and no more names", f"{left} as well", _help(command))
    if isinstance(error, RepeatArgumentError):
        return _repeated(here, str(error.token.keyword), error.root_input_tokens or ())
    if isinstance(error, MissingArgumentError):
        return _missing(command, error)
    return _no_such_value(error) if isinstance(error, CoercionError) else None


def _unknown(app: App, command: str, here: Iterable[str], flag: str) -> Problem:
    others = [name for name in app if not name.startswith("-") and name != command and flag in _flags(app, name)]
    near = difflib.get_close_matches(flag, list(here), n=1, cutoff=_LIKE)
    found = f"one of {', '.join(others)}" if others else "none of that name"
    remedy = _help(command) if others or not near else f"did you mean {near[0]}?"
    return Problem(flag, "usage.flag", f"a flag of {command}", found, remedy)


def _repeated(here: Mapping[str, tuple[str, ...]], flag: str, words: Iterable[str]) -> Problem:
    spellings = here.get(flag, (flag,))
    given = {word.partition("=")[0] for word in words} & set(spellings)
    if len(given) > 1:
        return Problem(flag, "usage.repeated", " or ".join(spellings), "both", "give one of them")
    return Problem(flag, "usage.repeated", "the flag once", "it more than once", "leave one of them out")


def _missing(command: str, error: MissingArgumentError) -> Problem | None:
    argument = error.argument
    if argument is None:
        return None
    if error.keyword or argument.tokens:
        flag = error.keyword or argument.tokens[-1].keyword or argument.name
        return Problem(flag, "usage.value", "a value after it", "none", _help(command))
    return Problem(command, "usage.missing", f"{argument.name}, which is required", "none", _help(command))


def _no_such_value(error: CoercionError) -> Problem | None:
    """The problem of a text that is no number, or none of the choices."""
    argument, token = error.argument, error.token
    if argument is None or token is None:
        return None
    flag, remedy = token.keyword or argument.name, "correct it, or leave the flag out"
    kinds = [kind for kind in (argument.hint, *get_args(argument.hint)) if kind in _NUMBERS or get_origin(kind)]
    choices = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if choices:
        near = difflib.get_close_matches(token.value, choices, n=1, cutoff=_LIKE)
        remedy = f"did you mean {near[0]}?" if near else remedy
        return Problem(flag, "usage.choice", "one of " + ", ".join(choices), repr(token.value), remedy)
    number = next((_NUMBERS[kind] for kind in kinds if kind in _NUMBERS), None)
    return None if number is None else Problem(flag, "usage.number", number, repr(token.value), remedy)


def _arguments(app: App, command: str) -> list[Argument]:
    return [argument for argument in app[command].assemble_argument_collection() if argument.parse]


def _flags(app: App, command: str) -> Mapping[str, tuple[str, ...]]:
    """Each flag of a command, with all spellings of its parameter."""
    found = {flag: argument.names for argument in _arguments(app, command) for flag in argument.names}
    return {flag: names for flag, names in found.items() if flag.startswith("-")}


def _positional(argument: Argument) -> tuple[str, ...]:
    return tuple(name for name in argument.names if not name.startswith("-"))[:1]


def _help(command: str) -> str:
    return f"see ptycho-cli {command} --help"
