"""Texts of the library, which name options as Python does, shown by the command line, which has flags."""

from __future__ import annotations

import pytest
from ptycho_cli.main import main
from ptycho_cli.output.flags import with_flags
from ptycho_contracts.config import SECTIONS, schema
from ptycho_data.files import write_scan
from ptycho_data.simulate import simulate


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("try `modes=3`", "try --modes 3"),
        ("more `epochs`", "more --epochs"),
        ("`correct_positions`", "--correct-positions"),
        ("`correct_positions=True`", "--correct-positions"),
        ("`enable_checkpointing=False`", "--disable-checkpointing"),
        ("`early_stop_patience`", "--early-stop-patience"),
        ("a command's own `companion`", "a command's own --companion"),
        ("not `other` nor `Other(x)`", "not `other` nor `Other(x)`"),
        ("epochs without backticks", "epochs without backticks"),
    ],
)
def test_options_in_backticks_become_flags(text, shown):
    assert with_flags(text) == shown


def test_every_option_has_its_flag():
    for section in SECTIONS:
        for row in schema(section):
            assert with_flags(f"`{row.name}`").startswith("--")


def test_a_message_on_the_command_line_has_flags(tmp_path, capsys):
    """CLI-31: what the library calls `n_groups`, the command line calls --n-groups."""
    write_scan(tmp_path / "scan.npz", simulate(N=16, n_patterns=9, step_px=3.0, seed=1))
    code = main(
        [
            "reconstruct",
            str(tmp_path / "scan.npz"),
            "--output-dir",
            str(tmp_path / "out"),
            "--resume",
            "--disable-checkpointing",
        ]
    )
    reported = capsys.readouterr().err
    assert code == 2
    assert "--" in reported
    assert "`" not in reported
