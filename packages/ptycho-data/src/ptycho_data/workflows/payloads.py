"""Payloads: one resolved configuration with the scan or model that it is for (specs/config.md).

Framework-free: a backend's ``config_factory`` passes the function that opens a bundle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import (
    PRETRAINED,
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    Resolved,
    Section,
    TrainingConfig,
    check_names,
    present_names,
    resolve,
    schema,
    to_dict,
)
from ptycho_contracts.effects import read_options, require_effects
from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from ptycho_contracts.records import Scan

from ptycho_data.bundle_file import Bundle
from ptycho_data.workflows.prepared_scan import assembly_of
from ptycho_data.workflows.pretrained import pretrained_bundle
from ptycho_data.workflows.reading import ScanOrFile, combined_scan, require_read_so, several

PathLike = str | Path

_BUNDLE_OPTIONS = ("gridsize", "neighbor_count", "min_distance_px", "max_distance_px")
"""Options with which inference makes groups as training did."""


@dataclass(frozen=True, eq=False)
class TrainingPayload:
    """All that a training needs.

    Attributes:
        scan: The training scans, combined.
        output_dir: Where results go.
        pt_data_config, pt_model_config, pt_training_config, execution_config: The resolved options.
        overrides_applied: For each option set by a layer, its value and the layer: explicit, execution or file.
        hold_out: Indices of patterns that are never used, if they were given as such; else None.
    """

    scan: Scan
    output_dir: Path
    pt_data_config: DataConfig
    pt_model_config: ModelConfig
    pt_training_config: TrainingConfig
    execution_config: ExecutionConfig
    overrides_applied: Mapping[str, Mapping[str, Any]]
    hold_out: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class InferencePayload:
    """All that inference needs; attributes as in :class:`TrainingPayload`, with the opened ``bundle``."""

    bundle: Bundle
    scan: Scan
    output_dir: Path
    pt_data_config: DataConfig
    pt_model_config: ModelConfig
    pt_inference_config: InferenceConfig
    execution_config: ExecutionConfig
    overrides_applied: Mapping[str, Mapping[str, Any]]
    hold_out: NDArray[np.int64] | None = None


def training_payload(
    train_data_file: ScanOrFile | Sequence[ScanOrFile],
    output_dir: PathLike,
    overrides: Mapping[str, Any] | None = None,
    execution_config: ExecutionConfig | None = None,
) -> TrainingPayload:
    """Read the training data and resolve all options: explicit > execution > file > defaults.

    Args:
        train_data_file: One scan or file, or several that make one dataset of several scans.
        output_dir: Where results will go; nothing is written yet.
        overrides: Flat option names of the data, model, training and execution sections.
        execution_config: Execution options; all of them are taken.

    Raises:
        MissingFileError: "Training data file not found", with the path.
        ContractError: unknown or illegal options, or without effect; n_groups missing; bad data.
    """
    sections = (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig)
    given, hold_out = _checked(overrides, sections)
    _require_files(several(train_data_file), "Training data file not found")
    if given.get("n_groups") is None and given.get("oversampling") is None:
        raise ContractError(
            Problem(
                "explicit.n_groups",
                "config.n_groups",
                "a number of groups: n_groups is required",
                "none",
                "pass overrides={'n_groups': ...}, for instance the number of patterns",
            )
        )
    require_read_so(train_data_file, given)
    scan = combined_scan(train_data_file, given)
    resolved = _resolve(sections, given, execution_config, scan)
    data = resolved[DataConfig]
    _require_size(scan, data.N, "leave `N` out, or import the file with `crop`, `pad` or `bin`")
    exact = scan.probe is not None and scan.probe_kind == "exact"
    require_effects("train", resolved.applied, resolved.sections.values(), exact_probe=exact)
    return TrainingPayload(
        scan=scan,
        output_dir=Path(output_dir),
        pt_data_config=data,
        pt_model_config=resolved[ModelConfig],
        pt_training_config=resolved[TrainingConfig],
        execution_config=resolved[ExecutionConfig],
        overrides_applied=_audit("train", resolved),
        hold_out=hold_out,
    )


def inference_payload(
    model_path: PathLike | Bundle,
    test_data_file: ScanOrFile,
    output_dir: PathLike,
    overrides: Mapping[str, Any] | None = None,
    execution_config: ExecutionConfig | None = None,
    *,
    load_bundle: Callable[[Path], Bundle],
) -> InferencePayload:
    """Open the model, read the scan and resolve all options; what the model fixes comes from its bundle.

    Args:
        model_path: The bundle's file, the bundle, or ``"pretrained"``: the learned prior that is shipped (IMG-9).
        test_data_file: The scan's file, or the scan.
        output_dir, overrides, execution_config: As in :func:`training_payload`, without the training's options.
        load_bundle: How the backend opens a bundle.

    Raises:
        MissingFileError: "Model archive not found" or "Test data file not found", with the path.
        ContractError: a broken bundle, unknown or illegal options, or without effect, or a scan that does not fit the
            model.
    """
    given, hold_out = _checked(overrides, (DataConfig, InferenceConfig, ExecutionConfig))
    shipped = not isinstance(model_path, Bundle) and str(model_path) == PRETRAINED
    if not isinstance(model_path, Bundle) and not shipped:
        _require_files([model_path], "Model archive not found")
    _require_files([test_data_file], "Test data file not found")
    if isinstance(model_path, Bundle):
        bundle = model_path
    else:
        bundle = pretrained_bundle(combined_scan(test_data_file, given)) if shipped else load_bundle(Path(model_path))
    model = bundle.model.config
    clash = {
        name: given[name] for name in ("N", "gridsize") if name in given and given[name] != getattr(model.data, name)
    }
    if clash:
        raise ContractError(
            [
                Problem(
                    f"explicit.{name}",
                    "config.fixed_by_model",
                    f"{getattr(model.data, name)}, as the model was trained",
                    repr(value),
                    f"leave {name} out or train a model for it",
                )
                for name, value in clash.items()
            ]
        )
    require_read_so(test_data_file, given)
    scan = combined_scan(test_data_file, given)
    remedy = f"import the file with `crop`, `pad` or `bin`, or train a model for {scan.N} x {scan.N}"
    _require_size(scan, model.data.N, remedy)
    # The bundle decides how groups are made, but not how this file's patterns are read.
    frozen = {name: value for name, value in to_dict(model.data).items() if name in _BUNDLE_OPTIONS}
    resolved = _resolve((DataConfig, InferenceConfig, ExecutionConfig), given, execution_config, scan, frozen=frozen)
    assembly = assembly_of(resolved[InferenceConfig].assembly, model.architecture, bundle.model.infers_whole_canvas)
    require_effects("infer", resolved.applied, resolved.sections.values(), assembly=assembly, pretrained=shipped)
    return InferencePayload(
        bundle=bundle,
        scan=scan,
        output_dir=Path(output_dir),
        pt_data_config=resolved[DataConfig],
        pt_model_config=model,
        pt_inference_config=resolved[InferenceConfig],
        execution_config=resolved[ExecutionConfig],
        overrides_applied=_audit("infer", resolved),
        hold_out=hold_out,
    )


def _checked(
    overrides: Mapping[str, Any] | None, sections: Sequence[type[Section]]
) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """Overrides with known names and legal values, checked before any file is read; indices to hold out apart."""
    given = present_names(overrides or {}, sections)
    check_names(given, [row.name for section in sections for row in schema(section)], where="explicit")
    hold_out = None
    if isinstance(given.get("hold_out"), np.ndarray | list | tuple):
        hold_out = np.asarray(given.pop("hold_out"))
    elif isinstance(given.get("hold_out"), Real | Path):
        given["hold_out"] = str(given["hold_out"])
    resolve(sections, {"explicit": given})
    return given, hold_out


def _resolve(
    sections: Sequence[type[Section]],
    given: Mapping[str, Any],
    execution_config: ExecutionConfig | None,
    scan: Scan,
    *,
    frozen: Mapping[str, Any] | None = None,
) -> Resolved:
    from_file: dict[str, Any] = {"N": scan.N}
    if scan.metadata.get("nphotons"):
        from_file["nphotons"] = float(scan.metadata["nphotons"])
    layers = {
        "explicit": given,
        "execution": {} if execution_config is None else to_dict(execution_config),
        "bundle": frozen or {},
        "file": from_file,
    }
    return resolve(sections, layers)


def _audit(command: str, resolved: Resolved) -> dict[str, Mapping[str, Any]]:
    """What was set, by whom, of what the command reads: a whole execution configuration sets more (CFG-26)."""
    read = {row.name for row in read_options(command)}
    return {name: entry for name, entry in resolved.applied.items() if name in read}


def _require_files(paths: Sequence[ScanOrFile], message: str) -> None:
    missing = [
        Problem(str(path), "file.missing", "an existing file", "nothing", f"{message}: {path}; check the path")
        for path in paths
        if not isinstance(path, Scan) and not os.path.exists(path)
    ]
    if missing:
        raise MissingFileError(missing)


def _require_size(scan: Scan, side: int, remedy: str) -> None:
    where = str(scan.metadata.get("source", "Scan"))
    if side != scan.N:
        raise ContractError(Problem(where, "scan.size", f"patterns of {side} x {side}", f"{scan.N} x {scan.N}", remedy))
