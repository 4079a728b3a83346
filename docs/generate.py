"""Write the reference pages from the code: ``python docs/generate.py [--check]``.

``options.md`` comes from the schema of options, ``commands.md`` from the commands' parameters.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cyclopts import Parameter
from ptycho_cli.commands import COMMANDS
from ptycho_cli.options import OPTIONS_OF, default_words, negative_flag
from ptycho_contracts.config import SECTIONS, Option, schema
from ptycho_contracts.effects import markdown_rules

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: change the code, then run `python -m nox -s docs`. -->"


def pages() -> dict[str, str]:
    """Content of each generated page by file name."""
    return {"options.md": "\n".join(_options()) + "\n", "commands.md": "\n".join(_commands()) + "\n"}


def _options() -> Iterator[str]:
    yield from ("# Options", "", NOTE, "")
    yield "Every option of the suite, by section. In a `--config` file use the name, flat or in a table of the"
    yield "section's name; on the command line the flag; in Python the name, as a field or an override. Those that most"
    yield "users meet stand first, in bold."
    for section in SECTIONS:
        yield from ("", f"## {section.section}", "", (section.__doc__ or "").splitlines()[0], "")
        yield "| option | flag | legal values | default | commands | meaning | when one needs it |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for row in sorted(schema(section), key=lambda row: not row.common):
            readers = ", ".join(name for name, rows in OPTIONS_OF.items() if row in rows)
            default = "none" if row.default is None else f"`{row.default}`"
            name = f"**`{row.name}`**" if row.common else f"`{row.name}`"
            yield _row(name, _flags(row), row.legal, default, readers or "(Python)", row.help, row.when)
    yield from ("", "## Options without effect", "")
    yield "An option that a command does not read, or that has no effect beside another one, is refused before any"
    yield "work. `none`, `false` and 0 ask for nothing, and are accepted everywhere. `nphotons` has an effect only on"
    yield "files of normalised amplitude."
    yield from ("", markdown_rules())


def _commands() -> Iterator[str]:
    yield from ("# Commands", "", NOTE, "")
    yield "`ptycho-cli COMMAND --help` shows the same. Every command accepts `--debug` (traceback of an error)."
    codes = "0 done, 1 the work failed, 2 usage or bad input, 130 Ctrl-C, 143 SIGTERM"
    yield f"Exit codes: {codes}; one line on stderr says why."
    for command in COMMANDS:
        yield from ("", f"## {command.__name__}", "", (command.__doc__ or "").strip(), "")
        yield f"`{_usage(command)}`"
        yield from ("", "| parameter | default | meaning |", "| --- | --- | --- |")
        rows = {row.name: row for row in OPTIONS_OF.get(command.__name__, ())}
        for parameter, described in _parameters(command):
            yield _row(*_parameter_cells(parameter, described, rows.get(parameter.name)))


def _parameters(command: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, Parameter]]:
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        described = next(
            (extra for extra in typing.get_args(parameter.annotation) if isinstance(extra, Parameter)), Parameter()
        )
        if described.parse is not False:
            yield parameter, described


def _usage(command: Callable[..., Any]) -> str:
    words = ["ptycho-cli", command.__name__]
    for parameter, described in _parameters(command):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            words.append(parameter.name.upper() + "...")
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            name = parameter.name.upper()
            words.append(name if parameter.default is inspect.Parameter.empty else f"[{name}]")
        elif parameter.default is inspect.Parameter.empty:
            words.append(f"{_name(described)} {parameter.name.upper()}")
    return " ".join([*words, "[OPTIONS]"])


def _parameter_cells(parameter: inspect.Parameter, described: Parameter, row: Option | None) -> tuple[str, str, str]:
    if row is not None:
        return _flags(row), "none" if row.default is None else f"`{default_words(row)}`", f"{row.help}; {row.legal}"
    kind = next(iter(typing.get_args(parameter.annotation)), parameter.annotation)
    choices = [value for inner in (kind, *typing.get_args(kind)) for value in typing.get_args(inner)]
    legal = [repr(value) for value in choices if isinstance(value, str)]
    meaning = str(described.help or "") + (f" One of {', '.join(dict.fromkeys(legal))}." if legal else "")
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return parameter.name.upper(), "", meaning
    negative = described.negative or ()
    names = [_name(described), *((negative,) if isinstance(negative, str) else negative)]
    default = "required" if parameter.default is inspect.Parameter.empty else _shown(parameter.default)
    return ", ".join(f"`{name}`" for name in names), default, meaning


def _shown(default: Any) -> str:
    return "none" if default is None else f"`{default}`"


def _name(described: Parameter) -> str:
    names = described.name or ()
    return names if isinstance(names, str) else str(names[0])


def _flags(row: Option) -> str:
    negative = negative_flag(row)
    return f"`{row.flag}`" + (f", `{negative}`" if negative else "")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(argv: list[str]) -> int:
    """Write the pages, or with ``--check`` say which differ."""
    stale = [
        name for name, text in pages().items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text
    ]
    for name in stale:
        if "--check" in argv:
            print(f"docs/{name} is not what the code says: run python -m nox -s docs")
        else:
            (FOLDER / name).write_text(pages()[name])
            print(f"wrote docs/{name}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
