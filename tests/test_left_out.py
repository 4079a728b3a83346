"""Invariant 51: what continuous integration leaves out is listed, with its reason, or the run fails."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.skip(reason="too warm")
def test_one(): ...

@pytest.mark.parametrize("n", [1, 2])
def test_two(n):
    if n == 2:
        pytest.skip("too cold")
"""
LISTED = '[[skip]]\nreason = "too warm"\nmost = 1\n'
BOTH = LISTED + '[[skip]]\nreason = "too cold"\nmost = 1\n'
FEWER = BOTH.replace("most = 1", "most = 0", 1)


@pytest.fixture
def run(repository: Path, tmp_path: Path):
    """Run a small suite under the repository's conftest.py; returns exit code and output."""
    shutil.copy(repository / "conftest.py", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "data").mkdir()

    def suite(listed: str, *words: str, CI: str = "1", data: str = "data", without: str = "") -> tuple[int, str]:
        (tmp_path / "tests" / "left_out.toml").write_text(listed)
        steering = {"CI": CI, "PTYCHO_SHARED_DATA": str(tmp_path / data), "PTYCHO_WITHOUT_SHARED_DATA": without}
        env = {**os.environ, **steering, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # starts in half the time
        command = [sys.executable, "-m", "pytest", "--rootdir", ".", "-p", "no:cacheprovider", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return suite


def test_a_skip_that_is_not_listed_fails_the_run(run):
    """Each is named with its reason, whether it is on the test or within it."""
    code, said = run(LISTED)
    assert code == 1
    assert "1 skipped, 0 listed: too cold" in said
    assert "too warm" not in said.split("left out beyond", 1)[1]


def test_more_skips_than_listed_fail_the_run(run):
    """The count cannot grow under a reason that is listed."""
    code, said = run(FEWER)
    assert code == 1
    assert "1 skipped, 0 listed: too warm" in said


def test_what_is_listed_passes(run):
    assert run(BOTH)[0] == 0


def test_a_selection_must_be_listed(run):
    """A quiet ``-k`` or ``-m`` in a session is a deselection like any other."""
    code, said = run(BOTH, "-k", "two")
    assert code == 1
    assert "selection not listed: two" in said
    assert run(BOTH + '[[selection]]\nexpression = "two"\n', "-k", "two")[0] == 0


@pytest.mark.parametrize("elsewhere", [{"CI": "", "data": "nowhere"}, {"data": "nowhere", "without": "1"}], ids=str)
def test_nothing_is_asked_elsewhere(run, elsewhere):
    """At a desk, or where the data cannot be there to run everything."""
    assert run("", "-k", "two", **elsewhere)[0] == 0


def test_missing_data_fail_the_run(run):
    """All tests of measured scans would be skipped."""
    code, said = run(BOTH, data="nowhere")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "PTYCHO_SHARED_DATA" in said
    assert "PTYCHO_WITHOUT_SHARED_DATA=1" in said


@pytest.mark.parametrize(
    ("least", "words", "code"), [(3, [], 0), (4, [], 4), (2, ["-k", "two"], 0), (3, ["-k", "two"], 4)]
)
def test_too_few_tests_fail_the_run(run, least, words, code):
    """What is deselected does not count."""
    result, said = run(BOTH, "--least", str(least), *words, CI="")
    assert result == code
    assert (f"{least - 1} tests to run, at least {least} expected" in said) == (code != 0)


def test_every_session_says_how_many_tests_it_has_at_least(repository):
    """A call of pytest without a least number would pass with whole classes gone."""
    calls = [
        node
        for node in ast.walk(ast.parse((repository / "noxfile.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "pytest"
    ]
    assert len(calls) > 5
    assert [node.lineno for node in calls if "least" not in {word.arg for word in node.keywords}] == []
