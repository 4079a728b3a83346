"""The commands: their own parameters, and what they print. The work is in runs, evaluation, demo and inspection."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.checks.advice import hint

from ptycho_cli.config_file import read_config
from ptycho_cli.options import EVALUATE_OPTIONS, INFER_OPTIONS, RECONSTRUCT_OPTIONS, TRAIN_OPTIONS, with_options

Backend = Literal["torch", "tf", "pytorch", "tensorflow"]
OutputDir = Annotated[Path, Parameter(name="--output-dir", help="Folder for the results; created when missing.")]
Typed = Annotated[tuple[str, ...], Parameter(parse=False)]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="TOML file with any of the options below; flags beat it.")
]
_READ_WITH_TRUTH = ("measurement", "nphotons", "enable_progress_bar")
Resume = Annotated[
    bool,
    Parameter(
        name="--resume", negative=(), help="Go on from OUT/checkpoints/descent.safetensors, with the same settings."
    ),
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
    _say("train", settings, f"wrote {output_dir / runs.MODEL_NAME}", summary)


@with_options(INFER_OPTIONS)
def infer(
    model: Annotated[Path, Parameter(help="Bundle written by `train`.")],
    data: Annotated[Path, Parameter(help="Scan to image.")],
    /,
    *,
    output_dir: OutputDir,
    resume: Resume = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Image a scan with a trained model; writes object.npz, amplitude.png, phase.png and summary.json."""
    from ptycho_cli import runs

    settings = {**read_config(config, INFER_OPTIONS, extra=("backend",)), **overrides}
    _, summary = runs.infer(
        model,
        data,
        output_dir=output_dir,
        overrides=settings,
        resume=resume,
        backend=_backend(backend, settings),
        command=typed,
    )
    if summary.get("training_collapsed"):
        print(f"ptycho-cli: warning: {model}: its training collapsed; the image shows no object", file=sys.stderr)
    _say("infer", settings, f"wrote {output_dir / 'object.npz'}", summary)


@with_options(RECONSTRUCT_OPTIONS)
def reconstruct(
    data: Annotated[Path, Parameter(help="Scan to reconstruct.")],
    /,
    *,
    output_dir: OutputDir,
    resume: Resume = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Joint descent on object and probe, without a network; writes the same files as infer."""
    from ptycho_cli import runs

    settings = {**read_config(config, RECONSTRUCT_OPTIONS, extra=("backend",)), **overrides}
    _, summary = runs.reconstruct(
        data,
        output_dir=output_dir,
        overrides=settings,
        resume=resume,
        backend=_backend(backend, settings),
        command=typed,
    )
    _say("reconstruct", settings, f"wrote {output_dir / 'object.npz'}", summary)


@with_options(EVALUATE_OPTIONS)
def evaluate(
    image: Annotated[Path | None, Parameter(help="Reconstruction (object.npz) to score; needs --truth.")] = None,
    /,
    *,
    truth: Annotated[
        Path | None, Parameter(name="--truth", help="Scan with its true object, or another object.npz.")
    ] = None,
    scan: Annotated[
        Path | None,
        Parameter(name="--scan", help="Scan to evaluate without a truth: reconstructs it and two halves of it."),
    ] = None,
    output_dir: Annotated[
        Path | None, Parameter(name="--output-dir", help="Write evaluation.json and figures into this folder.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")] = False,
    backend: BackendFlag = None,
    config: ConfigFile = None,
    typed: Typed = (),
    overrides: dict[str, Any],
) -> None:
    """Score an image beside a truth, or a scan without one: R beside its floor, FRC of half scans, advice."""
    from ptycho_data.workflows import evaluate as evaluation

    from ptycho_cli import runs

    settings = {**read_config(config, EVALUATE_OPTIONS, extra=("backend",)), **overrides}
    _check_evaluation(image, truth, scan, backend, settings)
    if image is not None and truth is not None:
        settings.pop("backend", None)
        report = runs.evaluate_image(image, truth, output_dir=output_dir, overrides=settings, command=typed)
    else:
        assert scan is not None
        report = runs.evaluate_scan(
            scan, output_dir=output_dir, overrides=settings, backend=_backend(backend, settings), command=typed
        )
    if as_json:
        _print_json(report)
    elif settings.get("enable_progress_bar", True):
        print("\n".join(evaluation.lines(report)))
        if output_dir is not None:
            print("wrote " + ", ".join(str(output_dir / name) for name in report["outputs"]))


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
    companion: Annotated[
        Path | None,
        Parameter(name="--companion", help="Second file: Ptychodus' product beside its diffraction, a mapping's data."),
    ] = None,
    orientation: Annotated[
        bool,
        Parameter(
            name="--orientation", negative=(), help="Rank the eight orientations of the positions by a few iterations."
        ),
    ] = False,
) -> None:
    """Say what a file holds and whether it is fit for use; changes nothing."""
    from ptycho_cli.commands import inspect as inspection

    if output_dir is not None:
        from ptycho_cli.output.publish import require_output_dir

        require_output_dir(output_dir)
    found = inspection.inspect_file(
        file, measurement=measurement, nphotons=nphotons, companion=companion, orientation=orientation
    )
    written = inspection.draw_previews(found, output_dir) if output_dir is not None else []
    report = {**found.report(), "previews": [str(path) for path in written]}
    if as_json:
        _print_json(report)
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
    from ptycho_cli.commands import demo as demonstration

    lines = demonstration.run(
        output_dir, max_seconds=max_seconds, backend=backend or "torch", quiet=quiet, command=typed
    )
    if not quiet:
        print("\n".join(lines))


def register(app: App) -> None:
    """Add every command to the program."""
    from ptycho_cli.commands.convert import convert
    from ptycho_cli.commands.simulate import simulate

    for command in (train, infer, reconstruct, evaluate, simulate, inspect, convert, demo):
        app.command(command, name=command.__name__)


def _backend(flag: str | None, settings: dict[str, Any]) -> str:
    configured = settings.pop("backend", "torch")
    return str(flag or configured)


def _check_evaluation(
    image: Path | None, truth: Path | None, scan: Path | None, backend: str | None, settings: Mapping[str, Any]
) -> None:
    """Refuse what is neither an image beside a truth nor a scan, and options of the other (CLI-16 to CLI-18)."""
    problems = []

    def problem(code: str, expected: str, found: str, remedy: str) -> None:
        problems.append(Problem("evaluate", code, expected, found, remedy))

    if image is None and scan is None:
        found = "only --truth" if truth else "neither"
        problem("usage.evaluate", "IMAGE with --truth, or --scan", found, "name what to evaluate")
    elif image is not None and scan is not None:
        problem("usage.evaluate", "IMAGE with --truth, or --scan", "IMAGE and --scan", "leave one of them out")
    elif image is not None and truth is None:
        problem("usage.truth", "--truth beside IMAGE", "none", "give --truth, or --scan SCAN instead of the image")
    elif scan is not None and truth is not None:
        problem("usage.truth", "no --truth beside --scan", "one", "to use it: reconstruct, then evaluate IMAGE --truth")
    elif image is not None:
        idle = [row.flag for row in EVALUATE_OPTIONS if row.name in settings and row.name not in _READ_WITH_TRUTH]
        idle += ["--backend"] if backend is not None or "backend" in settings else []
        if idle:
            problem("usage.idle", "options of --scan only with --scan", ", ".join(idle), "nothing is fitted: omit them")
    if problems:
        raise ContractError(problems)


def _print_json(report: Mapping[str, Any]) -> None:
    from ptycho_cli.output.publish import plain

    print(json.dumps(plain(report), indent=2, allow_nan=False))


def _say(command: str, settings: Mapping[str, Any], first: str, summary: Mapping[str, Any]) -> None:
    """The outcome in one line on stdout, and a hint where R stays high, unless quiet was asked for."""
    if not settings.get("enable_progress_bar", True):
        return
    words = [first]
    training = summary.get("training", {})
    reached, flat = (training.get("losses", {}).get("val_loss"), training.get("flat_loss"))
    if _is_finite(reached) and _is_finite(flat):
        words.append(f"val_loss {reached:.4g}, a uniform object's {flat:.4g}")
    for title in ("residual", "poisson_floor"):
        figures = summary.get(title)
        if isinstance(figures, Mapping):
            words += [f"{title} {name} {value:.4f}" for name, value in figures.items() if _is_finite(value)]
    print("; ".join(words))
    advice = hint(command, summary)
    if advice is not None:
        print(advice)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
