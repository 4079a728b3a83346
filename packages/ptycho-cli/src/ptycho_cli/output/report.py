"""What a run leaves behind: files, pictures and ``summary.json`` (specs/cli.md, CLI-11, CLI-20 to CLI-23)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_contracts.records import Reconstruction

from ptycho_cli.output.publish import staged, write_json

if TYPE_CHECKING:
    from ptycho_data.workflows.evaluate import Evaluated

_SUITE = tuple(f"ptycho-{name}" for name in ("cli", "contracts", "data", "torch", "tf"))
_PACKAGES = (*_SUITE, "numpy", "scipy", "torch", "lightning")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def described_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Path, size and sha256 of each input."""
    from ptycho_data.files import file_sha256

    return [
        {"path": str(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
        if path.is_file()
    ]


def full_summary(
    command: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[str],
    backend_summary: Mapping[str, Any],
) -> dict[str, Any]:
    """``summary.json``: who ran what on which data, then what the backend reports."""
    head = {"command": list(command), "versions": versions(), "inputs": list(inputs), "outputs": list(outputs)}
    return {**head, **{key: value for key, value in backend_summary.items() if key not in head}}


def publish_training(output_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json`` beside the model that the backend has written."""
    with staged(output_dir) as stage:
        write_json(stage / "summary.json", summary)


def publish_reconstruction(output_dir: Path, reconstruction: Reconstruction, summary: Mapping[str, Any]) -> None:
    """Write ``object.npz``, the two pictures and ``summary.json``, all or none."""
    from ptycho_data.files import write_reconstruction

    from ptycho_cli.plots.maps import draw_reconstruction

    with staged(output_dir) as stage:
        write_reconstruction(stage / "object.npz", reconstruction)
        draw_reconstruction(reconstruction, stage)
        write_json(stage / "summary.json", summary)


def publish_evaluation(output_dir: Path, evaluated: Evaluated, summary: Mapping[str, Any]) -> None:
    """Write ``evaluation.json`` and the figures, all or none."""
    from ptycho_cli.plots.comparison import draw_comparison, draw_convergence, draw_frc

    with staged(output_dir) as stage:
        draw_comparison(evaluated.comparison.alignment, stage / "comparison.png", names=evaluated.names)
        draw_frc(evaluated.curves, stage / "frc.png")
        if evaluated.convergence:
            draw_convergence(evaluated.convergence, evaluated.floor, stage / "convergence.png")
        write_json(stage / "evaluation.json", summary)
