"""Invariant 51: nothing is left out in silence.

On continuous integration, where ``CI`` is set, a skip or a selection that ``tests/left_out.toml`` does not list fails
the run, and so do more skips for a reason than it grants. The shared data must be there, unless
``PTYCHO_WITHOUT_SHARED_DATA`` says that they cannot be: then skips are not counted. Anywhere, ``--least N`` fails a run
that would run fewer than N tests.
"""

from __future__ import annotations

import os
import signal
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent


def unlisted(skips: Iterable[str], selections: Iterable[str], listed: Mapping[str, Any]) -> list[str]:
    """Complaints about what was left out beyond the list: reasons of skips, expressions of ``-m`` and ``-k``."""
    granted = {entry["reason"]: entry["most"] for entry in listed.get("skip", [])}
    known = {entry["expression"] for entry in listed.get("selection", [])}
    counted = Counter(skips).items()
    found = [f"{n} skipped, {granted.get(why, 0)} listed: {why}" for why, n in counted if n > granted.get(why, 0)]
    return found + [f"selection not listed: {expression}" for expression in selections if expression not in known]


class LeftOut:
    """Counts what a run leaves out."""

    def __init__(self, config: pytest.Config) -> None:
        self.skips: list[str] = []
        self.selections = [words for words in (config.option.markexpr, config.option.keyword) if words]
        self.complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.skips.append(getattr(report, "wasxfail", why.removeprefix("Skipped: ")))

    pytest_collectreport = pytest_runtest_logreport

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.complaints = unlisted(
            self.skips, self.selections, tomllib.loads((ROOT / "tests" / "left_out.toml").read_text())
        )
        if self.complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.complaints:
            terminalreporter.write_line(f"left out beyond tests/left_out.toml: {line}", red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--least", type=int, default=0, metavar="N", help="fail if fewer than N tests would run")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    data = Path(os.environ.get("PTYCHO_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not os.environ.get("CI") or os.environ.get("PTYCHO_WITHOUT_SHARED_DATA"):
        return
    if not data.is_dir():
        raise pytest.UsageError(
            f"no shared data at {data}: set PTYCHO_SHARED_DATA to their folder, or PTYCHO_WITHOUT_SHARED_DATA=1 to "
            "leave out what needs them"
        )
    config.pluginmanager.register(LeftOut(config), "left-out")


def pytest_collection_finish(session: pytest.Session) -> None:
    least, found = session.config.option.least, len(session.items)
    if found < least:
        raise pytest.UsageError(
            f"{found} tests to run, at least {least} expected: find what is no longer collected, or lower the number "
            "in noxfile.py if tests were removed on purpose"
        )
