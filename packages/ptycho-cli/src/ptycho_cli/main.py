"""The program ``ptycho-cli``: parsing, deprecated spellings, errors and exit codes (specs/cli.md)."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError
from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from ptycho_data.signals import Interrupted, signals_interrupt

from ptycho_cli.commands import register
from ptycho_cli.output.flags import with_flags

DONE, FAILED, USAGE, BY_SIGNAL = 0, 1, 2, 128
_USAGE_ERRORS = (
    CycloptsError,
    ContractError,
    MissingFileError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_RENAMED = {"--device": "--accelerator", "--n_images": "--n-groups", "--sweeps": "--passes"}
_DEBUG = "--debug"


def build_app() -> App:
    """The program with its commands; builds a new one at each call, so that tests share no state."""
    app = App(
        name="ptycho-cli",
        version=lambda: version("ptycho-cli"),
        help="Neural ptychography: train a network on scans, infer other scans with it, or reconstruct without one.",
        help_epilogue=f"Every command accepts {_DEBUG}: show the traceback of an error.",
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    register(app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 the work failed, 2 usage or bad input,
    130 Ctrl-C, 143 SIGTERM.

    Args:
        argv: The words after the program's name; default: those of this process; its warnings
            are then shown as one line each.
    """
    if argv is None:
        _show_warnings_in_one_line()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = _DEBUG in words
    words = [word for word in words if word != _DEBUG]
    app = build_app()
    try:
        if not words:
            app.help_print([])
            return _fail("no command given", USAGE)
        words = current_spellings(words)
        function, bound, unparsed = app.parse_args(words, print_error=False, exit_on_error=False)
        typed = {"typed": ("ptycho-cli", *words)} if "typed" in unparsed else {}
        with signals_interrupt():
            function(*bound.args, **bound.kwargs, **typed)
    except KeyboardInterrupt as error:
        kept = error.kept if isinstance(error, Interrupted) and error.kept else "results are as they were before"
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return _fail(with_flags(f"interrupted; {kept}"), BY_SIGNAL + number)
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, _USAGE_ERRORS)
        return _fail(with_flags(_one_line(error)), USAGE if expected else FAILED)
    return DONE


def current_spellings(words: Sequence[str]) -> list[str]:
    """Replace deprecated spellings, each with a DeprecationWarning that names the new flag."""
    current = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in _RENAMED:
            _deprecated(flag, _RENAMED[flag])
            current.append(_RENAMED[flag] + equals + value)
        elif word == "--disable_mlflow":
            _deprecated(word, "--logger none")
            current += ["--logger", "none"]
        else:
            current.append(word)
    return current


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)


def _fail(reason: str, code: int) -> int:
    print(f"ptycho-cli: error: {reason}", file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    known = isinstance(error, (CycloptsError, ContractError, MissingFileError))
    text = " ".join(str(error).split()) or "no message"
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if len(problems) > 1 and len({(one.remedy, one.code) for one in problems}) == 1:
        # A remedy for all of them is printed once.
        each = " | ".join(f"{one.where}: expected {one.expected}, found {one.found}" for one in problems)
        text = " ".join(f"{len(problems)} problems: {each}; {problems[0].remedy} [{problems[0].code}]".split())
    if isinstance(error, MissingArgumentError) and not error.keyword and not (error.argument and error.argument.tokens):
        text = text.replace("requires an argument", "is required, and was not given")
    if known or hasattr(error, "problems"):
        return text
    return f"{type(error).__name__}: {text} ({_DEBUG} shows the traceback)"


def _show_warnings_in_one_line() -> None:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        print(f"ptycho-cli: warning: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = show
    if not sys.warnoptions:
        warnings.filterwarnings("default", category=DeprecationWarning, module=r"ptycho_cli\.")
