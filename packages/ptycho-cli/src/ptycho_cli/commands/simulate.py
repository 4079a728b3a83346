"""The command ``simulate``: a scan with known truth, written to a file (specs/cli.md, CLI-12)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import make_folder

from ptycho_cli.commands.parameters import Overwrite, Quiet
from ptycho_cli.options import whole_number
from ptycho_cli.output.earlier import require_new_files
from ptycho_cli.output.progress import progress_on
from ptycho_cli.output.publish import require_files, require_output_dir
from ptycho_cli.output.terminal import show

ObjectKind = Literal["lines", "dead_leaves", "random_field", "siemens_star", "fibres", "grains", "particles"]
ProbeKind = Literal["defocused_disc", "zone_plate"]
ScanKind = Literal["raster", "jittered", "spiral"]


def simulate(
    file: Annotated[Path, Parameter(help="The .npz file to write.")],
    /,
    *,
    object_kind: Annotated[ObjectKind, Parameter(name="--object", help="Kind of object.")] = "lines",
    probe_kind: Annotated[ProbeKind, Parameter(name="--probe", help="Kind of probe.")] = "defocused_disc",
    probe_file: Annotated[
        Path | None, Parameter(name="--probe-file", help="Take the probe of this scan file instead; its size sets N.")
    ] = None,
    scan_kind: Annotated[ScanKind, Parameter(name="--scan", help="Kind of scan.")] = "jittered",
    N: Annotated[int, Parameter(name="--N", converter=whole_number, help="Side of a pattern in pixels.")] = 64,
    patterns: Annotated[int, Parameter(name="--patterns", converter=whole_number, help="Number of patterns.")] = 1500,
    step_px: Annotated[float, Parameter(name="--step-px", help="Step between positions in pixels.")] = 5.0,
    photons: Annotated[float, Parameter(name="--photons", help="Mean photons per pattern.")] = 1e6,
    modes: Annotated[
        int, Parameter(name="--modes", converter=whole_number, help="Incoherent modes of the simulated probe.")
    ] = 1,
    poisson: Annotated[bool, Parameter(name="--poisson", negative="--no-poisson", help="Draw photon noise.")] = True,
    background: Annotated[float, Parameter(name="--background", help="Background photons per pixel.")] = 0.0,
    seed: Annotated[
        int, Parameter(name="--seed", converter=whole_number, help="Seed of object, positions and noise.")
    ] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a scan with photon noise and its true object; writes one .npz file."""
    _check_target(file)
    require_new_files([file], overwrite=overwrite)
    if seed < 0:
        raise ContractError(Problem("--seed", "simulate.seed", "an integer >= 0", str(seed), "give another seed"))
    if probe_file is not None:
        require_files([("Probe file", probe_file)])
    with progress_on(quiet=quiet, first=f"simulating {file.name}") as progress:
        from ptycho_data import simulate as simulated
        from ptycho_data.files import write_scan

        scan = simulated.simulate(
            object_kind=object_kind,
            probe_kind=probe_kind,
            scan_kind=scan_kind,
            N=N,
            n_patterns=patterns,
            step_px=step_px,
            photons_per_pattern=photons,
            seed=seed,
            modes=modes,
            probe=None if probe_file is None else simulated.measured(probe_file),
            poisson=poisson,
            background_counts=background,
            progress=progress,
        )
        make_folder(file.parent)
        write_scan(file, scan)
    if not quiet:
        height, width = scan.object_truth.shape if scan.object_truth is not None else (0, 0)
        show(f"wrote {file}: {len(scan)} patterns of {scan.N} x {scan.N}, object of {width} x {height} px, seed {seed}")


def _check_target(file: Path) -> None:
    problems = []
    if file.suffix != ".npz":
        problems.append(Problem(str(file), "output.suffix", "a name ending in .npz", repr(file.name), "rename it"))
    if file.is_dir():
        problems.append(Problem(str(file), "output.is_a_folder", "a file name", "a folder", "choose another name"))
    if problems:
        raise ContractError(problems)
    require_output_dir(file.parent, named=str(file))
