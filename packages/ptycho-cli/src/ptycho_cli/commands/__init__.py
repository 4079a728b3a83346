"""The commands of ptycho-cli, one module per command."""

from __future__ import annotations

from cyclopts import App

from ptycho_cli.commands.convert import convert
from ptycho_cli.commands.demo import demo
from ptycho_cli.commands.evaluate import evaluate
from ptycho_cli.commands.import_ import import_
from ptycho_cli.commands.infer import infer
from ptycho_cli.commands.inspect import inspect
from ptycho_cli.commands.reconstruct import reconstruct
from ptycho_cli.commands.report import report
from ptycho_cli.commands.simulate import simulate
from ptycho_cli.commands.train import train

COMMANDS = (train, infer, reconstruct, evaluate, report, simulate, import_, inspect, convert, demo)


def register(app: App) -> None:
    """Add every command to the program."""
    for command in COMMANDS:
        app.command(command, name=command.__name__)
