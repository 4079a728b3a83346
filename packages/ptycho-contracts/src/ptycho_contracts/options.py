"""The machinery of the option schema: declaring, checking, merging and serialising (specs/config.md).

The options themselves are declared in :mod:`ptycho_contracts.config`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

from ptycho_contracts.problems import ContractError, Problem, nearest

T = TypeVar("T", bound="Section")
T_ = TypeVar("T_")


def option(
    default: Any,
    help: str,
    *,
    when: str = "",
    common: bool = False,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    flag: str | None = None,
    negative_flag: str | None = None,
    aliases: tuple[str, ...] = (),
) -> Any:
    """Declare one option: a dataclass field that knows its help text, legal values and flag.

    ``when`` says when one needs it, ``common`` that it is one of the few that most users meet. ``minimum`` and
    ``maximum`` are inclusive, ``above`` is exclusive. ``flag`` and ``negative_flag`` override the spelling derived
    from the field's name. ``aliases`` are earlier names, which are still read.
    """
    metadata = {
        "help": help,
        "when": when,
        "common": common,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "flag": flag,
        "negative_flag": negative_flag,
        "aliases": aliases,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the schema, as flags, docs and checks see it."""

    section: str
    name: str
    type: type
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    minimum: float | None
    above: float | None
    maximum: float | None
    flag: str
    negative_flag: str | None
    aliases: tuple[str, ...] = ()
    when: str = ""
    common: bool = False

    @property
    def legal(self) -> str:
        """The legal values in words, for messages and docs."""
        if self.choices:
            words = "one of " + ", ".join(repr(choice) for choice in self.choices)
        else:
            words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[self.type]
            bounds = [
                f"{sign} {bound:g}"
                for sign, bound in ((">=", self.minimum), (">", self.above), ("<=", self.maximum))
                if bound is not None
            ]
            words += " " + " and ".join(bounds) if bounds else ""
        return words + (" or none" if self.optional else "")

    def plain(self, value: Any) -> Any:
        """The value as a Python scalar of this option's type; as it is if it is no scalar of that kind.

        NumPy's integers and floats are such scalars, of any precision; arrays and texts are not (CFG-3).
        """
        if isinstance(value, bool):
            return value
        if self.type is str:
            return str(value) if isinstance(value, str) else value
        if isinstance(value, Integral) and self.type is int:
            return int(value)
        if isinstance(value, Real) and self.type is float:
            with suppress(OverflowError):  # an integer beyond the largest float stays, and is not accepted
                return float(value)
        return value

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is legal for this option."""
        if value is None:
            return self.optional
        plain, kind = self.plain(value), typing.cast(Any, self.type)
        if not isinstance(plain, kind) or (self.type is not bool and isinstance(plain, bool)):
            return False
        if self.type is float and not math.isfinite(plain):
            return False
        if self.choices:
            return plain in self.choices
        if isinstance(plain, str | bool):
            return True
        return (
            (self.minimum is None or plain >= self.minimum)
            and (self.above is None or plain > self.above)
            and (self.maximum is None or plain <= self.maximum)
        )


class Section:
    """Base of the option groups: checks every field, and derives the schema from the fields."""

    section: typing.ClassVar[str]

    def __post_init__(self) -> None:
        rows = schema(type(self))
        problems = [
            Problem(
                where=f"{self.section}.{row.name}",
                code="config.value",
                expected=row.legal,
                found=repr(getattr(self, row.name)),
                remedy="give a legal value or leave the option out",
            )
            for row in rows
            if not row.accepts(getattr(self, row.name))
        ]
        for row in rows if not problems else ():
            object.__setattr__(self, row.name, row.plain(getattr(self, row.name)))
        problems += [
            _reference_problem(type(self), name, kind, type(getattr(self, name)).__name__)
            for name, kind in references(type(self)).items()
            if not isinstance(getattr(self, name), kind)
        ]
        problems += self._cross_checks() if not problems else []
        if problems:
            raise ContractError(problems)

    def _cross_checks(self) -> list[Problem]:
        """Checks between options; run when each option is legal by itself."""
        return []


def schema(section: type[Section]) -> tuple[Option, ...]:
    """Options of one section, in the order of their declaration."""
    hints = typing.get_type_hints(section)
    rows = []
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        if "help" not in field.metadata:
            continue
        members = typing.get_args(hints[field.name]) or (hints[field.name],)
        kinds = [kind for kind in members if kind is not types.NoneType]
        declared = {**field.metadata, "flag": field.metadata["flag"] or "--" + field.name.replace("_", "-")}
        rows.append(
            Option(
                section=section.section,
                name=field.name,
                type=kinds[0],
                optional=len(kinds) < len(members),
                default=field.default,
                **declared,
            )
        )
    return tuple(rows)


def references(section: type[Section]) -> Mapping[str, type[Section]]:
    """Fields of a section that refer to another section, such as ``data`` of the model."""
    hints = typing.get_type_hints(section)
    fields = dataclasses.fields(section)  # type: ignore[arg-type]
    return {field.name: hints[field.name] for field in fields if "help" not in field.metadata}


def present_names(values: Mapping[str, T_], sections: Iterable[type[Section]]) -> dict[str, T_]:
    """The values with earlier names of options replaced by the present ones.

    Raises:
        ContractError: an option under two of its names.
    """
    present = {alias: row.name for section in sections for row in schema(section) for alias in row.aliases}
    twice = [name for name in values if name in present and present[name] in values]
    if twice:
        raise ContractError(
            Problem(f"explicit.{name}", "config.repeated", f"'{present[name]}' once", f"'{name}' too", "remove one")
            for name in twice
        )
    return {present.get(name, name): value for name, value in values.items()}


def check_names(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise one ContractError that names every unknown key and the nearest known one."""
    problems = unknown_names(given, known, where=where)
    if problems:
        raise ContractError(problems)


def unknown_names(given: Iterable[str], known: Iterable[str], *, where: str) -> list[Problem]:
    """One problem for each given name that is not known, with the nearest known one."""
    known = list(known)
    return [
        Problem(
            where=f"{where}.{name}",
            code="config.unknown",
            expected="a known option",
            found=repr(name),
            remedy=nearest(str(name), known),
        )
        for name in given
        if name not in known
    ]


@dataclass(frozen=True)
class Resolved:
    """Outcome of :func:`resolve`.

    Attributes:
        sections: The built sections, by their class.
        applied: For each option that a layer set: ``{"value": ..., "source": layer}``.
    """

    sections: Mapping[type[Section], Section]
    applied: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, section: type[T]) -> T:
        return self.sections[section]  # type: ignore[return-value]


def resolve(sections: Iterable[type[Section]], layers: Mapping[str, Mapping[str, Any]]) -> Resolved:
    """Merge layers of options, strongest first, into the given sections.

    Args:
        sections: The sections to build, in any order, with those that they refer to; option names
            that occur in several get the same value.
        layers: Layer name (such as ``"explicit"``, ``"execution"``, ``"file"``) to its flat options,
            strongest layer first. Options in no layer keep their default.

    Returns:
        The sections and, for each option set by a layer, its value and that layer's name.

    Raises:
        ContractError: unknown names or illegal values, of all layers and sections at once.
    """
    requested = _with_references(sections)
    rows = {row.name: row for section in requested for row in schema(section)}
    known = sorted(rows)
    problems: list[Problem] = []
    applied: dict[str, dict[str, Any]] = {}
    for layer, named in layers.items():
        values = present_names(named, requested)
        problems += unknown_names(values, known, where=layer)
        for name, value in values.items():
            plain = rows[name].plain(value) if name in rows else value
            applied.setdefault(name, {"value": plain, "source": layer})
    merged = {name: entry["value"] for name, entry in applied.items()}
    built = _build({section: _own(section, merged) for section in requested}, problems)
    return Resolved(sections=built, applied=applied)


def to_dict(config: Section) -> dict[str, Any]:
    """Options of a section as JSON values; derived values and references are left out."""
    return {row.name: getattr(config, row.name) for row in schema(type(config))}


def from_dict(section: type[T], values: Mapping[str, Any], **referred: Section) -> T:
    """Build a section from a mapping and the sections that it refers to (``data=`` for the model).

    Raises:
        ContractError: unknown keys, illegal values, or a reference left out: a default in its place
            could contradict the rest of the configuration (CFG-6).
    """
    values = present_names(values, [section])
    problems = unknown_names(values, [row.name for row in schema(section)], where=section.section)
    problems += [
        _reference_problem(section, name, kind, "nothing")
        for name, kind in references(section).items()
        if name not in referred
    ]
    if problems:
        raise ContractError(problems)
    return section(**values, **referred)


def to_tables(sections: Iterable[Section]) -> dict[str, dict[str, Any]]:
    """``{section: {option: value}}`` in JSON values, all options, no computed ones (CFG-16)."""
    return {config.section: to_dict(config) for config in sections}


def build_tables(tables: Mapping[str, Mapping[str, Any]], known: Iterable[type[Section]]) -> Resolved:
    """Sections from ``{section: {option: value}}``, each referring to the others.

    Raises:
        ContractError: unknown tables or options, illegal values, a table without the one that it
            refers to; all at once.
    """
    by_name = {section.section: section for section in known}
    problems = unknown_names(tables, by_name, where="tables")
    problems += [
        Problem(name, "config.table", "a table of options", repr(values), "write option = value below the table's name")
        for name, values in tables.items()
        if not isinstance(values, Mapping)
    ]
    if problems:
        raise ContractError(problems)
    tables = {name: present_names(values, [by_name[name]]) for name, values in tables.items()}
    for section in map(by_name.__getitem__, tables):
        names = [row.name for row in schema(section)]
        problems += unknown_names(tables[section.section], names, where=section.section)
        problems += [
            _reference_problem(section, name, kind, "nothing")
            for name, kind in references(section).items()
            if kind.section not in tables
        ]
    present = [section for section in _with_references(by_name.values()) if section.section in tables]
    built = _build({section: _own(section, tables[section.section]) for section in present}, problems)
    return Resolved(sections=built, applied={})


def _own(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    return {row.name: values[row.name] for row in schema(section) if row.name in values}


def _with_references(sections: Iterable[type[Section]]) -> list[type[Section]]:
    """The sections and all that they refer to, the referred ones first, each once."""
    ordered: dict[type[Section], None] = {}
    for section in sections:
        for referred in _with_references(references(section).values()):
            ordered.setdefault(referred)
        ordered.setdefault(section)
    return list(ordered)


def _build(values: Mapping[type[Section], Mapping[str, Any]], problems: list[Problem]) -> dict[type[Section], Section]:
    """Build sections in order, referred ones first, and raise all problems at once."""
    built: dict[type[Section], Section] = {}
    for section, mine in values.items():
        referred = {name: built[kind] for name, kind in references(section).items() if kind in built}
        try:
            built[section] = section(**mine, **referred)
        except ContractError as error:
            problems = [*problems, *error.problems]
    if problems:
        raise ContractError(problems)
    return built


def _reference_problem(section: type[Section], name: str, kind: type[Section], found: str) -> Problem:
    return Problem(
        where=f"{section.section}.{name}",
        code="config.reference",
        expected=f"the section '{kind.section}' that belongs to it",
        found=found,
        remedy=f"give {name} as a {kind.__name__}",
    )
