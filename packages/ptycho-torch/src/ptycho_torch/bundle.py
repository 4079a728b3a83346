"""A trained model as one ``.safetensors`` file: tensors, and everything else as JSON (specs/bundle.md)."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ptycho_contracts.config import ModelConfig, from_tables, to_dict
from ptycho_contracts.problems import ContractError, MissingFileError, Problem
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ptycho_torch.model import PtychoModel

FORMAT = "ptycho-bundle"
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model with what it was trained on.

    Attributes:
        model: In evaluation mode, on the CPU.
        mean_counts: Mean photons a pattern of the training patterns: the frozen gauge of the training set.
        provenance: JSON values: versions, settings, inputs and results of the training.
    """

    model: PtychoModel
    mean_counts: float
    provenance: Mapping[str, Any]


def save_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle; what was at ``path`` is replaced in one step, only when all is written."""
    config = bundle.model.config
    tensors = {name: value.contiguous() for name, value in bundle.model.network.state_dict(prefix="network.").items()}
    tensors["probe"] = torch.view_as_real(bundle.model.probe).contiguous()
    tensors["mean_counts"] = torch.tensor([bundle.mean_counts], dtype=torch.float64)
    header = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "config": json.dumps({"data": to_dict(config.data), "model": to_dict(config)}),
        "provenance": json.dumps(bundle.provenance),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        save_file({name: value.cpu() for name, value in tensors.items()}, temporary, metadata=header)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle. Nothing in the file is executed.

    Raises:
        MissingFileError: no such file.
        ContractError: not a bundle, truncated, of an unknown schema, or with missing, additional or misshapen
            tensors.
    """
    if not path.exists():
        raise MissingFileError(
            Problem(str(path), "bundle.missing", "a model written by training", "no such file",
                    "Model archive not found: check the path")
        )  # fmt: skip
    header, tensors = _read(path)
    config = _config(path, header)
    probe = tensors.pop("probe", None)
    mean_counts = tensors.pop("mean_counts", None)
    wanted = (config.modes, config.data.N, config.data.N, 2)
    if probe is None or tuple(probe.shape) != wanted or not torch.isfinite(probe).all() or not probe.any():
        raise _broken(path, f"a probe of shape {wanted}", "none" if probe is None else f"one of {tuple(probe.shape)}")
    if mean_counts is None or mean_counts.numel() != 1 or not 0 < float(mean_counts) < math.inf:
        raise _broken(path, "one positive number 'mean_counts'", str(mean_counts))
    with torch.random.fork_rng(devices=[]):
        model = PtychoModel(config, np.ones((config.modes, config.data.N, config.data.N), np.complex64))
    model.probe = torch.view_as_complex(probe.contiguous())
    try:
        model.network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()})
    except RuntimeError as error:
        raise _broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise _broken(path, "finite weights", f"NaN or infinite values in {', '.join(broken)}")
    return Bundle(model.eval(), float(mean_counts), _json(path, header, "provenance"))


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise _broken(path, "a whole .safetensors file", " ".join(str(error).split())) from error


def _config(path: Path, header: Mapping[str, str]) -> ModelConfig:
    if header.get("format") != FORMAT:
        raise _broken(path, f"format '{FORMAT}'", repr(header.get("format")))
    if header.get("schema") != str(SCHEMA):
        raise _broken(path, f"schema {SCHEMA}", repr(header.get("schema")))
    tables = _json(path, header, "config")
    try:
        resolved = from_tables(tables)
        model = resolved[ModelConfig]
    except (ContractError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, "a configuration with tables 'data' and 'model'", str(error)) from error
    return model


def _json(path: Path, header: Mapping[str, str], key: str) -> Any:
    try:
        value = json.loads(header[key])
    except (KeyError, json.JSONDecodeError) as error:
        raise _broken(path, f"JSON under '{key}'", repr(error)) from error
    if not isinstance(value, dict):
        raise _broken(path, f"a JSON object under '{key}'", type(value).__name__)
    return value


def _broken(path: Path, expected: str, found: str) -> ContractError:
    return ContractError(Problem(str(path), "bundle.broken", expected, found, "train again or copy the file again"))
