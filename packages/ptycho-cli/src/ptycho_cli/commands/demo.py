"""The command ``demo``: simulate, train, infer another object, compare with its truth (specs/cli.md, CLI-14)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.stages import Progress

from ptycho_cli.backends import require_backend
from ptycho_cli.commands.infer import run_infer
from ptycho_cli.commands.parameters import BackendFlag, OutputDir, Overwrite, Quiet, Typed
from ptycho_cli.commands.train import run_train
from ptycho_cli.output.checkpoints import TRAINING, discard_checkpoint
from ptycho_cli.output.earlier import content_of, is_as_recorded, outputs_of, results_folder
from ptycho_cli.output.progress import progress_on
from ptycho_cli.output.publish import digests, require_output_dir, staged, write_json
from ptycho_cli.output.report import (
    IMAGE_FILES,
    MODEL_FILES,
    MODEL_NAME,
    REPORT,
    SUMMARY,
    finished,
    versions,
    with_page,
)
from ptycho_cli.output.run_page import IMAGE, pictures_in
from ptycho_cli.output.terminal import show

if TYPE_CHECKING:
    from ptycho_contracts.records import Reconstruction, Scan

TRAIN_SEED, TEST_SEED = 1, 2
TRAIN_FILE, TEST_FILE = "train.npz", "test.npz"
MODEL = "model"
"""Folder of what the demonstration trains, below its own."""
OWN_FILES = (SUMMARY, REPORT, "report.md", "comparison.png", TRAIN_FILE, TEST_FILE)
PATTERNS, SIDE_PX, STEP_PX, PHOTONS = 1500, 64, 5.0, 1e5
LEAST_SECONDS = 30.0
RESERVE = 0.3
"""Fraction of the time for inference, comparison and drawing."""

_FIGURES = (
    ("complex_correlation", "complex correlation"),
    ("amplitude_ssim", "amplitude SSIM"),
    ("phase_ssim", "phase SSIM"),
    ("amplitude_rmse", "amplitude RMSE"),
    ("phase_rmse_rad", "phase RMSE [rad]"),
    ("frc_half", "resolution, FRC 0.5 [Nyquist]"),
)


def demo(
    *,
    output_dir: OutputDir = Path("demo-output"),
    max_seconds: Annotated[float, Parameter(name="--max-seconds", help="Wall time in seconds.")] = 170.0,
    backend: BackendFlag = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    typed: Typed = (),
) -> None:
    """Simulate two objects, train on one, infer the other, compare with the truth."""
    lines = run_demo(
        output_dir, max_seconds=max_seconds, backend=backend or "torch", overwrite=overwrite, quiet=quiet, command=typed
    )
    if not quiet:
        for line in lines:
            show(line)


def run_demo(
    output_dir: Path,
    *,
    max_seconds: float,
    backend: str = "torch",
    overwrite: bool = False,
    quiet: bool = False,
    command: Sequence[str] = (),
) -> list[str]:
    """Run the demonstration and return what to print.

    Raises:
        ContractError: too little time, a bad folder, no backend.
        WorkFailedError: training or inference failed.
    """
    started = time.monotonic()
    if not max_seconds >= LEAST_SECONDS:
        raise ContractError(
            Problem(
                "--max-seconds", "demo.time", f"at least {LEAST_SECONDS:g}", f"{max_seconds:g}", "give it more time"
            )
        )
    require_output_dir(output_dir)
    require_backend(backend)
    replaces = overwrite or _is_as_a_demo_left_it(output_dir)
    with (
        results_folder(output_dir, command, writes=_written(), overwrite=replaces),
        progress_on(quiet=quiet, first="simulating two objects") as progress,
    ):
        train_file = _simulated(output_dir, TRAIN_FILE, TRAIN_SEED, progress)[0]
        test_file, test_scan = _simulated(output_dir, TEST_FILE, TEST_SEED, progress)
        left = max_seconds * (1 - RESERVE) - (time.monotonic() - started)
        drawing = {"enable_progress_bar": not quiet}
        trained = run_train(
            [train_file],
            output_dir=output_dir / MODEL,
            overrides={"gridsize": 2, "seed": 0, "max_seconds": max(left, 1.0), **drawing},
            overwrite=True,
            backend=backend,
            command=command,
            progress=progress,
        )
        image, inferred = run_infer(
            output_dir / MODEL / MODEL_NAME,
            test_file,
            output_dir=output_dir / IMAGE,
            overrides=drawing,
            overwrite=True,
            backend=backend,
            command=command,
            progress=progress,
        )
        discard_checkpoint(output_dir / MODEL / TRAINING)  # nothing resumes a demonstration
        comparison = _compared(image, test_scan)
        figures = comparison.to_dict()
        summary = {
            "command": list(command),
            "finished": finished(),
            "versions": versions(),
            "complex_correlation": figures["complex_correlation"],
            "figures": figures,
            "seeds": {"train": TRAIN_SEED, "test": TEST_SEED},
            "seconds": time.monotonic() - started,
            "train": trained,
            "infer": inferred,
        }
        table = [f"{label:<32} {_number(figures, name)}" for name, label in _FIGURES]
        _write_report(output_dir, comparison, image, summary, figures)
    first = f"trained on one simulated object and inferred another one, in {summary['seconds']:.0f} s"
    return [first, *table, f"wrote {output_dir / 'report.md'}, comparison.png, summary.json"]


def _written() -> list[str]:
    """Paths below its folder that the demonstration may write."""
    folders = ((MODEL, MODEL_FILES), (IMAGE, IMAGE_FILES))
    return [*OWN_FILES, *(f"{folder}/{name}" for folder, names in folders for name in names)]


def _is_as_a_demo_left_it(output_dir: Path) -> bool:
    """Whether all that stands there is what an earlier demonstration wrote, unaltered."""
    summary = content_of(output_dir / SUMMARY)
    if not isinstance(summary, Mapping) or "train" not in summary or "infer" not in summary:
        return False
    parts = ((Path(), summary), (Path(MODEL), summary["train"]), (Path(IMAGE), summary["infer"]))
    recorded = {str(folder / name): sha256 for folder, part in parts for name, sha256 in outputs_of(part).items()}
    standing = [name for name in _written() if (output_dir / name).exists() and Path(name).name != SUMMARY]
    return all(name in recorded and is_as_recorded(output_dir / name, recorded[name]) for name in standing)


def _simulated(output_dir: Path, name: str, seed: int, progress: Progress | None) -> tuple[Path, Scan]:
    from ptycho_data.files import write_scan
    from ptycho_data.simulate import simulate

    scan = simulate(
        N=SIDE_PX, n_patterns=PATTERNS, step_px=STEP_PX, photons_per_pattern=PHOTONS, seed=seed, progress=progress
    )
    write_scan(output_dir / name, scan)
    return output_dir / name, scan


def _compared(image: Reconstruction, scan: Scan) -> Any:
    from ptycho_data.metrics import compare

    assert scan.object_truth is not None
    assert scan.object_origin_yx_px is not None
    return compare(
        image.object,
        scan.object_truth,
        weight=image.weight,
        estimate_origin_yx_px=image.origin_yx_px,
        truth_origin_yx_px=scan.object_origin_yx_px,
    )


def _write_report(
    output_dir: Path, comparison: Any, image: Reconstruction, summary: Mapping[str, Any], figures: Mapping[str, Any]
) -> None:
    rows = [f"| {label} | {_number(figures, name)} |" for name, label in _FIGURES]
    text = [
        "# Demonstration",
        "",
        f"A network was trained on {PATTERNS} simulated patterns of one object (seed {TRAIN_SEED}) and then inferred",
        f"another object (seed {TEST_SEED}) from its patterns alone, {summary['seconds']:.0f} s in all.",
        "",
        "![truth, image and difference](comparison.png)",
        "",
        "| figure | value |",
        "| --- | --- |",
        *rows,
        "",
        "Figures are computed after removing scale, global phase, phase ramp and shift, inside the scanned area.",
        "`summary.json` holds all of them, with settings, versions and times. The same by hand:",
        "",
        "```",
        *(
            f"ptycho-cli simulate {name}.npz --N {SIDE_PX} --patterns {PATTERNS} --step-px {STEP_PX:g} "
            f"--photons {PHOTONS:g} --seed {seed}"
            for name, seed in (("train", TRAIN_SEED), ("test", TEST_SEED))
        ),
        "ptycho-cli train train.npz --output-dir model --gridsize 2 --seed 0",
        "ptycho-cli infer model/model.safetensors test.npz --output-dir image",
        "```",
    ]
    from ptycho_cli.plots.comparisons import draw_comparison

    with staged(output_dir, summary=SUMMARY) as stage:
        draw_comparison(comparison.alignment, stage / "comparison.png", image=image)
        (stage / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")
        simulated = [output_dir / name for name in (TRAIN_FILE, TEST_FILE)]
        outputs = digests([*simulated, *sorted(stage.iterdir())])
        whole = with_page(stage, {**summary, "outputs": outputs}, pictures=pictures_in(output_dir))
        write_json(stage / SUMMARY, whole)


def _number(figures: Mapping[str, Any], name: str) -> str:
    value = figures[name]
    if value is None:
        return "undefined"
    return "not crossed" if name == "frc_half" and value >= 1 else f"{value:.4f}"
