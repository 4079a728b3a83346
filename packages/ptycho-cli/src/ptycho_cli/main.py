"""The program ``ptycho-cli``: parsing, deprecated spellings, errors and exit codes (specs/cli.md)."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError
from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from ptycho_data.signals import Interrupted, signals_interrupt

from ptycho_cli.commands import register
from ptycho_cli.options import OPTIONS_OF
from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.terminal import printable, wrapped
from ptycho_cli.output.usage import usage_problem

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
_USAGE_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP)
_NO_MLFLOW = "--disable_mlflow"
_RENAMED = {
    "--device": ("--accelerator",),
    "--n_images": ("--n-groups",),
    "--sweeps": ("--passes",),
    _NO_MLFLOW: ("--logger", "none"),
}
"""Deprecated flags and the words that stand for them where a command has such a flag (CLI-6)."""
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
        expected = isinstance(error, _USAGE_ERRORS) or getattr(error, "errno", None) in _USAGE_ERRNOS
        return _failed(app, error, USAGE if expected else FAILED)
    return DONE


def current_spellings(words: Sequence[str]) -> list[str]:
    """Replace deprecated spellings, each with a DeprecationWarning that names the new flag (CLI-6).

    Raises:
        ContractError: a deprecated flag whose new one the command does not have.
    """
    command = next((word for word in words if not word.startswith("-")), "")
    offered = {row.flag for row in OPTIONS_OF.get(command, ())}
    current: list[str] = []
    problems = []
    for word in words:
        flag, equals, value = word.partition("=")
        new = _RENAMED.get(flag)
        if new is None or (flag == _NO_MLFLOW and equals):
            current.append(word)
        elif new[0] in offered:
            _deprecated(f"{flag} is deprecated; use {' '.join(new)}")
            current += [*new[:-1], new[-1] + equals + value]
        elif flag == _NO_MLFLOW and offered:
            _deprecated(f"{flag} is deprecated and has no meaning for {command}, which logs no metrics; leave it out")
        else:
            problems.append(
                Problem(flag, "usage.deprecated", f"a flag of {command or 'a command'}", _meaningless(flag), "omit it")
            )
    if problems:
        raise ContractError(problems)
    return current


def _meaningless(flag: str) -> str:
    readers = [name for name, rows in OPTIONS_OF.items() if _RENAMED[flag][0] in {row.flag for row in rows}]
    return f"the deprecated {flag}, which has a meaning only for {', '.join(readers)} ({' '.join(_RENAMED[flag])})"


def _deprecated(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=3)


def _fail(reason: str, code: int) -> int:
    print(wrapped(f"ptycho-cli: error: {printable(reason)}", sys.stderr), file=sys.stderr)
    return code


def _failed(app: App, error: Exception, code: int) -> int:
    """Say why, in one line; several problems are a list on a terminal (CLI-39)."""
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if len(problems) < 2 or not sys.stderr.isatty():
        return _fail(with_flags(_one_line(app, error)), code)
    print(f"ptycho-cli: error: {len(problems)} problems", file=sys.stderr)
    for number, problem in enumerate(problems, start=1):
        line = with_flags(" ".join(f"{number}. {problem}".split()))
        print(wrapped(f"  {printable(line)}", sys.stderr, indent=" " * 5), file=sys.stderr)
    return code


def _one_line(app: App, error: Exception) -> str:
    if isinstance(error, _USAGE_ERRORS) and isinstance(error, OSError) and error.filename is not None:
        found = error.strerror or type(error).__name__
        return str(Problem(str(error.filename), "file.unusable", "a path that can be used", found, "choose another"))
    known = isinstance(error, (CycloptsError, ContractError, MissingFileError))
    text = " ".join(str(error).split()) or "no message"
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if len(problems) > 1 and len({(one.remedy, one.code) for one in problems}) == 1:
        # A remedy for all of them is printed once.
        each = " | ".join(f"{one.where}: expected {one.expected}, found {one.found}" for one in problems)
        text = " ".join(f"{len(problems)} problems: {each}; {problems[0].remedy} [{problems[0].code}]".split())
    if isinstance(error, CycloptsError):
        return str(usage_problem(app, error) or text)
    if known or hasattr(error, "problems"):
        return text
    return f"{type(error).__name__}: {text} ({_DEBUG} shows the traceback)"


def _show_warnings_in_one_line() -> None:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = f"ptycho-cli: warning: {printable(' '.join(str(message).split()))}"
        print(wrapped(line, sys.stderr), file=sys.stderr)

    warnings.showwarning = show
    if not sys.warnoptions:
        warnings.filterwarnings("default", category=DeprecationWarning, module=r"ptycho_cli\.")
