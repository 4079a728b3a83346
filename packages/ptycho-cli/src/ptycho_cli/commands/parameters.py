"""Parameters that several commands share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, Problem
from ptycho_contracts.records import Scan
from ptycho_data.deadline import Deadline
from ptycho_data.stages import Progress, begin

from ptycho_cli.output.preview import Preview
from ptycho_cli.output.progress import progress_on, reading_words

Backend = Literal["torch", "tf", "pytorch", "tensorflow"]
Measurement = Literal["auto", "counts", "amplitude", "normalised-amplitude"]

OutputDir = Annotated[Path, Parameter(name="--output-dir", help="Folder for the results; created if missing.")]
Typed = Annotated[tuple[str, ...], Parameter(parse=False)]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="TOML file with any of the options below; flags override it.")
]
MappingFile = Annotated[
    Path | None, Parameter(name="--mapping", help="TOML mapping by which the data are read, as `import` writes it.")
]
Turn = Annotated[
    str | None,
    Parameter(name="--turn", help="Change of the position axes as `inspect --orientation` prints it: \"x'=y, y'=-x\"."),
]
Resume = Annotated[
    bool,
    Parameter(
        name="--resume",
        negative=(),
        help="Resume from the checkpoint in OUT/checkpoints, with the same settings; epochs and seconds may differ.",
    ),
]
_PUBLISHING_SECONDS, _PUBLISHING_SECONDS_PER_MPX = 4.0, 1.5
"""Time to draw, write and hash results, and how it grows with the canvas: twice what an idle core needs."""
Overwrite = Annotated[
    bool, Parameter(name="--overwrite", negative=(), help="Replace what an earlier run left under the same names.")
]
PreviewFlag = Annotated[
    bool,
    Parameter(
        name="--preview",
        negative=(),
        help="Draw OUT/preview.png while the run works, every 10 s at most: what it has of the object, and the loss. "
        "It is removed in the end.",
    ),
]
BackendFlag = Annotated[Backend | None, Parameter(name="--backend", help="Backend that computes (default: torch).")]
ImageFormat = Literal["npz", "cxi", "ptychodus", "tiff"]
Formats = Annotated[
    tuple[ImageFormat, ...],
    Parameter(
        name="--format",
        negative=(),
        help="Also write the image as object.cxi, product.h5 (Ptychodus) or object.tif; repeat it for several. "
        "object.npz is always written.",
    ),
]
Quiet = Annotated[bool, Parameter(name="--quiet", negative=(), help="Print nothing but errors.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")]


def chosen_backend(flag: str | None, settings: dict[str, Any]) -> str:
    """The backend of a command line, otherwise of its configuration file; removed from the settings."""
    configured = settings.pop("backend", "torch")
    return str(flag or configured)


def require_output_to_overwrite(output_dir: Path | None, *, overwrite: bool) -> None:
    """Refuse ``--overwrite`` where nothing is written.

    Raises:
        ContractError: ``config.no_effect``.
    """
    if overwrite and output_dir is None:
        found, remedy = "--overwrite, which has none: no folder is written", "leave it out, or give --output-dir"
        raise ContractError(Problem("--overwrite", "config.no_effect", "a flag that has an effect", found, remedy))


def scan_in(data: Path, how: Mapping[str, Any], turn: str | None) -> Scan:
    """The scan of a file, its position axes changed after all that the file and its mapping say (CLI-53).

    Raises:
        MissingFileError, ContractError: as ``read_scan``, or no legal turn.
    """
    from ptycho_data.files import read_scan, turned_scan

    scan = read_scan(data, **how)
    return scan if turn is None else turned_scan(scan, turn)


def reading(overrides: Mapping[str, Any], mapping: Path | None = None) -> dict[str, Any]:
    """How files are read, as arguments of ``read_scan``."""
    given = {} if mapping is None else {"mapping": mapping}
    return given | {name: overrides[name] for name in ("measurement", "nphotons") if overrides.get(name) is not None}


@contextmanager
def progress_for(
    execution: ExecutionConfig,
    given: Progress | None,
    files: Sequence[Path],
    *,
    limit_s: float | None = None,
    preview: Preview | None = None,
) -> Iterator[Progress | None]:
    """The caller's callback, otherwise progress on stderr, unless the run is quiet; the first stage reads files.

    Args:
        limit_s: Time limit of the run.
        preview: Picture to draw.
    """
    first = reading_words(files)
    if given is not None:
        begin(given, first)
        yield given
        return
    with progress_on(quiet=not execution.enable_progress_bar, first=first, limit_s=limit_s, preview=preview) as told:
        yield told


def preview_in(folder: Path, asked: bool) -> Preview | None:
    """The preview of a run, if it was asked for.

    Raises:
        ContractError: ``output.exists``, somebody else's file of that name.
    """
    return Preview(folder) if asked else None


def before_publishing(deadline: Deadline, scan: Scan | None = None, *, pictures: float = 1.0) -> Deadline:
    """When the work itself must have ended, so that its results are drawn and written in time.

    Args:
        deadline: Of the command.
        scan: Whose canvas is drawn; None: no pictures.
        pictures: How much more there is to draw than of one image.
    """
    if scan is None or not deadline.limited:
        return deadline.keeping(_PUBLISHING_SECONDS / 4)
    from ptycho_data.canvas import canvas_geometry

    height, width = canvas_geometry(scan.positions_px, scan.N).shape
    return deadline.keeping(pictures * (_PUBLISHING_SECONDS + _PUBLISHING_SECONDS_PER_MPX * height * width / 1e6))
