"""Specifications whose clauses are numbered, and citations that lead to them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

CLAUSE = re.compile(r"^(?:- )?\*\*([A-Z]+)-(\d+[a-z]?)(?=\*\*| )", flags=re.MULTILINE)
"""A clause where it is defined: ``- **PHY-27** Text`` or ``**MET-13 FRC.** Text``."""

NUMBERS = re.compile(r"\b[Ii]nvariants?[\s#]+(\d+(?:(?:,|,?[\s#]+and|[\s#]+to|-)[\s#]*\d+)*)\b")
"""A citation of invariants: one number, a list or a range, also across lines of a comment."""

LAST = 53
"""The last invariant."""


def sources(repository: Path, *folders: str) -> list[Path]:
    """Python files of these folders, without what builds left there."""
    result = (path for folder in folders for path in repository.glob(f"{folder}/**/*.py"))
    return sorted(path for path in result if not {"build", "dist"} & set(path.relative_to(repository).parts))


def defined(repository: Path) -> Counter[str]:
    """How often each clause is defined."""
    pages = repository.glob("specs/*.md")
    return Counter("-".join(clause) for page in pages for clause in CLAUSE.findall(page.read_text(encoding="utf-8")))


def cited_numbers(text: str) -> Iterator[int]:
    """Invariants that a text cites, ranges in full."""
    for numbers in NUMBERS.findall(text):
        for first, last in re.findall(r"(\d+)(?:(?:-|[\s#]+to)[\s#]*(\d+))?", numbers):
            yield from range(int(first), int(last or first) + 1)


def cited_clauses(text: str, prefixes: set[str]) -> list[str]:
    """Clauses that a text cites: all words such as ``PHY-20a`` that begin with a known prefix."""
    return re.findall(rf"(?<![\w-])(?:{'|'.join(sorted(prefixes))})-\d+[a-z]?(?!\w)", text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Invariant 7: text", [7]),
        ("(invariant 32)", [32]),
        ("Invariants 8, 39", [8, 39]),
        ("Invariants 12, 15 and 21: text", [12, 15, 21]),
        ("Invariants 12, 15, and 21", [12, 15, 21]),
        ("Invariants 1-5", [1, 2, 3, 4, 5]),
        ("Invariants 1 to 3, 9", [1, 2, 3, 9]),
        ("# invariants 3,\n    # 4 and\n    # 5.", [3, 4, 5]),
        ("Invariant 46, TRN-16: 10 seeds", [46]),
        ("invariant under 90 degrees", []),
    ],
)
def test_lists_and_ranges_of_invariants_are_understood(text, numbers):
    """The reading itself, which the next test relies on."""
    assert list(cited_numbers(text)) == numbers


def test_clauses_are_understood():
    """Whole words with a known prefix, and no others."""
    assert cited_clauses("PHY-20a, (PHY-3), SHA-256, X-PHY-4, PHY-5to, PHY-6.", {"PHY"}) == [
        "PHY-20a",
        "PHY-3",
        "PHY-6",
    ]


def test_invariants_are_numbered_without_gaps(repository):
    """1 to 53, in order, each once."""
    clauses = CLAUSE.findall((repository / "specs" / "invariants.md").read_text(encoding="utf-8"))
    assert clauses == [("INV", str(number)) for number in range(1, LAST + 1)]


def test_every_invariant_that_is_cited_exists(repository):
    """In tests, in the code and in the benchmarks."""
    known = {int(number) for prefix, number in (clause.split("-") for clause in defined(repository)) if prefix == "INV"}
    cited = [
        (str(path.relative_to(repository)), number)
        for path in sources(repository, "packages", "tests", "benchmarks")
        if path != Path(__file__).resolve()
        for number in cited_numbers(path.read_text(encoding="utf-8"))
    ]
    assert len(cited) >= 200, "citations are no longer found"
    unknown = sorted({(path, number) for path, number in cited if number not in known})
    assert not unknown, f"no such invariant in specs/invariants.md: {unknown}"


def test_every_clause_is_defined_once(repository):
    """A number has one meaning."""
    assert [clause for clause, times in defined(repository).items() if times > 1] == []


def test_every_clause_that_is_cited_exists(repository):
    """In Python sources and in the specifications themselves."""
    known = set(defined(repository))
    prefixes = {clause.split("-")[0] for clause in known}
    python = sources(repository, "packages", "tests", "benchmarks", "docs", "specs")
    cited = [
        (str(path.relative_to(repository)), clause)
        for path in [*python, *repository.glob("*.py"), *repository.glob("specs/*.md")]
        if path != Path(__file__).resolve()
        for clause in cited_clauses(path.read_text(encoding="utf-8"), prefixes)
    ]
    assert sum(path.endswith(".py") for path, _ in cited) >= 200, "citations are no longer found"
    unknown = sorted({(path, clause) for path, clause in cited if clause not in known})
    assert not unknown, f"no such clause in specs/*.md: {unknown}"


def test_keys_of_references_are_unique(repository):
    """One key, one publication."""
    text = (repository / "specs" / "references.md").read_text(encoding="utf-8")
    keys = re.findall(r"^- \*\*\[([A-Z][A-Za-z0-9-]+)\]\*\* ", text, flags=re.MULTILINE)
    assert len(keys) == len(re.findall(r"^- ", text, flags=re.MULTILINE)) >= 20
    assert [key for key, times in Counter(keys).items() if times > 1] == []
