"""The ``.safetensors`` file of a trained model, in NumPy (specs/bundle.md). Knows no framework and no network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ModelConfig, from_tables, to_dict
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError

from ptycho_data.foreign_content import from_json, reading
from ptycho_data.free_memory import require_memory
from ptycho_data.input_files import checked_file
from ptycho_data.tensor_files import READ_ERRORS, is_safetensors, read_tensors, tensor_digest, write_tensors

FORMAT = "ptycho-bundle"
SCHEMA = 2
NETWORK = "network."
_SEALED = ("config", "provenance")
_NAMES_OF_SCHEMA_1 = {".enter.": ".in_conv.", ".leave.": ".out_conv."}
"""Layers that had other names before schema 2."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model in memory with what it was trained on.

    Attributes:
        model: A backend's model, in float32 and evaluation mode.
        mean_counts: Mean photons per pattern of the training patterns: the frozen probe normalisation.
        provenance: JSON values: versions, settings, inputs and results of the training.
    """

    model: Any
    mean_counts: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class BundleFile:
    """What a bundle holds.

    Attributes:
        config: Of the model, with its ``data``.
        weights: float32 arrays by name, such as ``network.nets.0.in_conv.weight`` (out, in, kh, kw).
        probe: (modes, N, N) complex64 of unit energy.
        mean_counts: Mean photons per pattern of the training patterns.
        provenance: JSON values.
    """

    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    probe: NDArray[np.complex64]
    mean_counts: float
    provenance: Mapping[str, Any]


def write_bundle(path: Path, content: BundleFile) -> None:
    """Write a bundle; what was at ``path`` is replaced in one step, only when all is written.

    Raises:
        WorkFailedError: weights that are NaN or infinite.
    """
    tensors = {name: np.asarray(value, np.float32, order="C") for name, value in content.weights.items()}
    probe = np.ascontiguousarray(content.probe, np.complex64)
    tensors["probe"] = probe.view(np.float32).reshape(*probe.shape, 2)
    tensors["mean_counts"] = np.array([content.mean_counts], np.float64)
    broken = _not_finite(tensors)
    if broken:
        raise WorkFailedError(
            Problem(
                str(path),
                "bundle.not_finite",
                "finite weights",
                f"NaN or infinite values in {broken}",
                "train with a lower learning rate",
            )
        )
    header = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "config": json.dumps({"data": to_dict(content.config.data), "model": to_dict(content.config)}),
        "provenance": json.dumps(content.provenance),
    }
    write_tensors(path, tensors, header, sealed=_SEALED)


def read_bundle(path: Path) -> BundleFile:
    """Read a bundle. Nothing in the file is executed, and no more memory taken than its tensors need.

    Raises:
        MissingFileError: no such file.
        ContractError: not a bundle, truncated or altered, of an unknown schema, or with broken tensors.
    """
    if not os.path.exists(path):
        raise MissingFileError(
            Problem(
                str(path),
                "bundle.missing",
                "a model written by training",
                "no such file",
                "Model archive not found: check the path",
            )
        )
    try:
        checked_file(path)
    except ContractError as error:
        found, expected = error.problems[0].found, "a whole .safetensors file"
        if path.is_dir():
            remedy = f"name the file in it, such as {path / 'model.safetensors'}"
            raise broken(path, expected, found, remedy) from error
        raise broken(path, expected, found) from error
    # The tensors are read as copies, so that the file may change meanwhile.
    require_memory(path.stat().st_size, where=str(path), remedy="use a machine with more memory")
    with reading(path):
        return _checked(path, *_read(path))


def _checked(path: Path, header: Mapping[str, str], tensors: dict[str, NDArray[Any]]) -> BundleFile:
    config = _config(path, header)
    provenance = _json(path, header, "provenance")
    _check_tensors(path, config, tensors)
    if header.get("sha256") != tensor_digest(header, tensors, _SEALED):
        raise broken(path, "the content that its checksum is of", "tensors or settings that were altered")
    if header["schema"] == "1":
        tensors = {_present_name(name): value for name, value in tensors.items()}
    probe = np.ascontiguousarray(tensors.pop("probe")).view(np.complex64)[..., 0]
    mean_counts = float(tensors.pop("mean_counts")[0])
    return BundleFile(config, tensors, probe, mean_counts, provenance)


_REMEDY = "train again or copy the file again"


def broken(path: Path, expected: str, found: str, remedy: str = _REMEDY) -> ContractError:
    """The error of a bundle that is not what it should be."""
    return ContractError(Problem(str(path), "bundle.broken", expected, found, remedy))


def require_same_network(path: Path, given: ModelConfig, wanted: ModelConfig) -> None:
    """Training can only start from a bundle of the same network (TRN-12); passes and modes have no weights.

    Args:
        path: Of the bundle, for the error.
        given: What the bundle holds.
        wanted: The model to train.

    Raises:
        ContractError: ``bundle.other_network``, for each option that differs.
    """
    names = ["architecture", "iterations", "width"] + (["gridsize"] if wanted.architecture == "cnn" else [])
    problems = [
        Problem(
            f"{path}: {name}",
            "bundle.other_network",
            str(getattr(wanted, name)),
            str(getattr(given, name)),
            f"train with {name} {getattr(given, name)} too, or leave `start_from` out",
        )
        for name in names
        if getattr(given, name) != getattr(wanted, name)
    ]
    if problems:
        raise ContractError(problems)


def _check_tensors(path: Path, config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Names, dtypes and values of all tensors, and the shapes of those that are not weights."""
    shapes = {"probe": (config.modes, config.data.N, config.data.N, 2), "mean_counts": (1,)}
    for name, shape in shapes.items():
        actual = tensors[name].shape if name in tensors else "none"
        if actual != shape:
            raise broken(path, f"'{name}' of shape {shape}", str(actual))
    for name, value in tensors.items():
        dtype = "float64" if name == "mean_counts" else "float32"
        if not (name in shapes or name.startswith(NETWORK)) or value.dtype != dtype:
            raise broken(path, f"'probe', 'mean_counts' and '{NETWORK}...', as {dtype}", f"'{name}' as {value.dtype}")
    unfit = _not_finite(tensors)
    if unfit:
        raise broken(path, "finite values", f"NaN or infinite values in {unfit}")
    if not tensors["probe"].any() or not float(tensors["mean_counts"][0]) > 0:
        raise broken(path, "a probe with energy and positive 'mean_counts'", "zeros")


def _present_name(name: str) -> str:
    """A tensor's name in this schema, from that of schema 1."""
    for old, new in _NAMES_OF_SCHEMA_1.items():
        name = name.replace(old, new)
    return name


def _not_finite(tensors: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(name for name, value in tensors.items() if not np.isfinite(value).all())


def _read(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    try:
        return read_tensors(path)
    except READ_ERRORS as error:
        if path.stat().st_size > 8 and not is_safetensors(path):
            remedy = "check the path; infer takes the model first, then the scan"
            expected = "a model written by training, a .safetensors file"
            raise broken(path, expected, "a file of another kind", remedy) from error
        raise broken(path, "a whole .safetensors file", " ".join(str(error).split())) from error


def _config(path: Path, header: Mapping[str, str]) -> ModelConfig:
    if header.get("format") != FORMAT:
        found = f"a .safetensors file of something else, format {header.get('format', 'undeclared')!r}"
        raise broken(path, f"a model of this suite, format '{FORMAT}'", found, "name one that training wrote")
    schema = header.get("schema", "")
    if schema not in ("1", str(SCHEMA)):
        newer = schema.isdecimal() and len(schema) < 9 and int(schema) > SCHEMA
        remedy = "a newer version wrote it: upgrade ptycho-data" if newer else _REMEDY
        raise broken(path, f"schema 1 or {SCHEMA}", repr(schema), remedy)
    tables = _json(path, header, "config")
    try:
        model = from_tables(tables)[ModelConfig]
    except (ContractError, KeyError, TypeError, AttributeError) as error:
        raise broken(path, "a configuration with tables 'data' and 'model'", str(error)) from error
    return model


def _json(path: Path, header: Mapping[str, str], key: str) -> Any:
    try:
        value = from_json(header[key])
    except (KeyError, ValueError) as error:
        raise broken(path, f"JSON under '{key}'", repr(error)) from error
    if not isinstance(value, dict):
        raise broken(path, f"a JSON object under '{key}'", type(value).__name__)
    return value
