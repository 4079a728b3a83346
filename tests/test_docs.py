"""Documentation that agrees with the code (invariant 37)."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from ptycho_cli.main import build_app, main
from ptycho_cli.options import negative_flag
from ptycho_contracts.config import SECTIONS, schema


@pytest.fixture(scope="module")
def generator(repository: Path) -> ModuleType:
    """The script that writes the reference pages."""
    spec = importlib.util.spec_from_file_location("generate", repository / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["options.md", "commands.md"])
def test_generated_pages_are_what_the_code_says(generator, repository, page):
    """Invariant 37: option and command tables are generated, and up to date."""
    assert (repository / "docs" / page).read_text() == generator.pages()[page], "run: python -m nox -s docs"


def test_every_command_and_flag_is_documented(generator, repository):
    """Invariant 37: checked against the program's own parser, not the generator."""
    text = (repository / "docs" / "commands.md").read_text()
    app = build_app()
    names = [name for name in app if not name.startswith("-")]
    assert len(names) == 10
    for name in names:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for argument in app[name].assemble_argument_collection():
            for flag in argument.names if argument.parameter.parse is not False else ():
                assert flag in section if flag.startswith("-") else flag.upper() in section, (name, flag)


def test_every_option_of_the_schema_is_documented(repository):
    """Invariant 37: name, flag and both answers of a boolean."""
    text = (repository / "docs" / "options.md").read_text()
    for section in SECTIONS:
        rows = text.split(f"\n## {section.section}\n")[1].split("\n## ")[0]
        for row in schema(section):
            for word in (row.name, row.flag, negative_flag(row)):
                assert word is None or f"`{word}`" in rows


def pages(repository: Path) -> list[Path]:
    """Every hand-written page."""
    return sorted([*repository.glob("*.md"), *repository.glob("docs/*.md"), *repository.glob("packages/*/README.md")])


def test_every_command_line_in_the_documentation_parses(repository):
    """Invariant 37: examples name commands and flags that exist."""
    app = build_app()
    checked = 0
    for page in pages(repository):
        for line in re.findall(r"^ptycho-cli (.*)$", page.read_text(), flags=re.MULTILINE):
            words = shlex.split(line, comments=True)
            app.parse_args(words, print_error=False, exit_on_error=False)
            checked += 1
    assert checked >= 8


def test_every_link_in_the_documentation_leads_somewhere(repository):
    for page in [*pages(repository), *repository.glob("specs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_example_of_the_file_format_makes_a_scan_that_passes_inspection(repository, tmp_path, monkeypatch, capsys):
    """Invariant 37: what docs/file-format.md says is what the reader reads."""
    text = (repository / "docs" / "file-format.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "file-format.md", "exec"), {})
    assert main(["inspect", "scan.npz"]) == 0
    shown = capsys.readouterr().out
    warned = [line for line in shown.splitlines() if line.strip().startswith("warn")]
    assert [line.split()[1] for line in warned] == ["probe"]
    assert "rescaled" in shown  # on a line of its own: a report has at most 100 columns
