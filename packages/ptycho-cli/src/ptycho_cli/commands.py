"""The commands: their own parameters, and what they print. The work is in runs, demo and inspection."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from ptycho_contracts.problems import ContractError, Problem

from ptycho_cli.config_file import read_config
from ptycho_cli.options import INFER_OPTIONS, RECONSTRUCT_OPTIONS, TRAIN_OPTIONS, with_options

Backend = Literal["torch", "tf", "pytorch", "tensorflow"]
OutputDir = Annotated[Path, Parameter(name="--output-dir", help="Folder for the results; created when missing.")]
Typed = Annotated[tuple[str, ...], Parameter(parse=False)]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="TOML file with any of the options below; flags beat it.")
]
BackendFlag = Annotated[Backend | None, Parameter(name="--backend", help="What computes (default: torch).")]


@with_options(TRAIN_OPTIONS)
def train(
    *data: Annotated[Path, Parameter(help="Training scans, in any format that `inspect` reads.")],
    output_dir: OutputDir,
    validation: Annotated[
        Path | None, Parameter(name="--validation", help="Scan for val_loss, instead of some of the training groups.")
    ] = None,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Train a network on scans; writes OUT/model.safetensors and OUT/summary.json."""
    from ptycho_cli import runs

    if not data:
        raise ContractError(Problem("train", "usage.data", "at least one DATA file", "none", "name a training scan"))
    settings = {**read_config(config, TRAIN_OPTIONS, extra=("backend", "validation")), **overrides}
    configured = settings.pop("validation", None)
    file = validation or (None if configured is None else Path(str(configured)))
    summary = runs.train(
        data,
        output_dir=output_dir,
        overrides=settings,
        validation=[] if file is None else [file],
        backend=_backend(backend, settings),
        command=typed,
    )
    _say(settings, f"wrote {output_dir / runs.MODEL_NAME}", summary)


@with_options(INFER_OPTIONS)
def infer(
    model: Annotated[Path, Parameter(help="Bundle written by `train`.")],
    data: Annotated[Path, Parameter(help="Scan to image.")],
    /,
    *,
    output_dir: OutputDir,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Image a scan with a trained model; writes object.npz, amplitude.png, phase.png and summary.json."""
    from ptycho_cli import runs

    settings = {**read_config(config, INFER_OPTIONS, extra=("backend",)), **overrides}
    _, summary = runs.infer(
        model, data, output_dir=output_dir, overrides=settings, backend=_backend(backend, settings), command=typed
    )
    _say(settings, f"wrote {output_dir / 'object.npz'}", summary)


@with_options(RECONSTRUCT_OPTIONS)
def reconstruct(
    data: Annotated[Path, Parameter(help="Scan to reconstruct.")],
    /,
    *,
    output_dir: OutputDir,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Joint descent on object and probe, without a network; writes the same files as infer."""
    from ptycho_cli import runs

    settings = {**read_config(config, RECONSTRUCT_OPTIONS, extra=("backend",)), **overrides}
    _, summary = runs.reconstruct(
        data, output_dir=output_dir, overrides=settings, backend=_backend(backend, settings), command=typed
    )
    _say(settings, f"wrote {output_dir / 'object.npz'}", summary)


def inspect(
    file: Annotated[Path, Parameter(help="Scan, bundle (model.safetensors) or reconstruction (object.npz).")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")] = False,
    output_dir: Annotated[
        Path | None, Parameter(name="--output-dir", help="Draw previews into this folder (scans and reconstructions).")
    ] = None,
    measurement: Annotated[
        Literal["auto", "counts", "amplitude", "normalised-amplitude"],
        Parameter(name="--measurement", help="What the patterns are."),
    ] = "auto",
    nphotons: Annotated[
        float | None, Parameter(name="--nphotons", help="Mean photons a pattern, for normalised amplitude.")
    ] = None,
) -> None:
    """Say what a file holds and whether it is fit for use; changes nothing."""
    from ptycho_cli import inspection

    if output_dir is not None:
        from ptycho_cli.publish import require_output_dir

        require_output_dir(output_dir)
    found = inspection.inspect_file(file, measurement=measurement, nphotons=nphotons)
    written = inspection.draw_previews(found, output_dir) if output_dir is not None else []
    report = {**found.report(), "previews": [str(path) for path in written]}
    if as_json:
        from ptycho_cli.publish import plain

        print(json.dumps(plain(report), indent=2, allow_nan=False))
        return
    for line in inspection.lines(report):
        print(line)


def demo(
    *,
    output_dir: OutputDir = Path("demo-output"),
    max_seconds: Annotated[float, Parameter(name="--max-seconds", help="Wall time for all of it.")] = 170.0,
    backend: BackendFlag = None,
    quiet: Annotated[bool, Parameter(name="--quiet", negative=(), help="Print nothing but errors.")] = False,
    typed: Typed = (),
) -> None:
    """Simulate two objects, train on one, image the other, compare with the truth."""
    from ptycho_cli import demonstration

    lines = demonstration.run(
        output_dir, max_seconds=max_seconds, backend=backend or "torch", quiet=quiet, command=typed
    )
    if not quiet:
        print("\n".join(lines))


def register(app: App) -> None:
    """Add every command to the program."""
    from ptycho_cli.simulation import simulate

    for command in (train, infer, reconstruct, simulate, inspect, demo):
        app.command(command, name=command.__name__)


def _backend(flag: str | None, settings: dict[str, Any]) -> str:
    configured = settings.pop("backend", "torch")
    return str(flag or configured)


def _say(settings: Mapping[str, Any], first: str, summary: Mapping[str, Any]) -> None:
    """The outcome in one line on stdout, unless quiet was asked for."""
    if not settings.get("enable_progress_bar", True):
        return
    words = [first]
    for title in ("residual", "poisson_floor"):
        figures = summary.get(title)
        if isinstance(figures, Mapping):
            words += [f"{title} {name} {value:.4f}" for name, value in figures.items() if _is_finite(value)]
    print("; ".join(words))


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
