"""A trained model as one ``.safetensors`` file: tensors, and everything else as JSON (specs/bundle.md)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ptycho_contracts.config import ModelConfig, from_tables, to_dict
from ptycho_contracts.problems import ContractError, MissingFileError, Problem, WorkFailedError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ptycho_torch.model import PtychoModel

FORMAT = "ptycho-bundle"
SCHEMA = 1
_NETWORK = "network."


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


def save_bundle(path: Path | str, bundle: Bundle) -> None:
    """Write a bundle; what was at ``path`` is replaced in one step, only when all is written.

    Raises:
        WorkFailedError: weights that are NaN or infinite.
    """
    path = Path(path)
    config = bundle.model.config
    tensors = {name: value.contiguous() for name, value in bundle.model.network.state_dict(prefix=_NETWORK).items()}
    tensors["probe"] = torch.view_as_real(bundle.model.probe).contiguous()
    tensors["mean_counts"] = torch.tensor([bundle.mean_counts], dtype=torch.float64)
    tensors = {name: value.cpu() for name, value in tensors.items()}
    broken = _not_finite(tensors)
    if broken:
        raise WorkFailedError(
            Problem(str(path), "bundle.not_finite", "finite weights", f"NaN or infinite values in {broken}",
                    "train with a lower learning rate")
        )  # fmt: skip
    header = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "config": json.dumps({"data": to_dict(config.data), "model": to_dict(config)}),
        "provenance": json.dumps(bundle.provenance),
    }
    header["sha256"] = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=header)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle. Nothing in the file is executed, and no more memory taken than its tensors need.

    Raises:
        MissingFileError: no such file.
        ContractError: not a bundle, truncated or altered, of an unknown schema, or with missing, additional or
            misshapen tensors.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(
            Problem(str(path), "bundle.missing", "a model written by training", "no such file",
                    "Model archive not found: check the path")
        )  # fmt: skip
    header, tensors = _read(path)
    config = _config(path, header)
    provenance = _json(path, header, "provenance")
    _check_tensors(path, config, tensors)
    if header.get("sha256") != _digest(header, tensors):
        raise _broken(path, "the content that its checksum is of", "tensors or settings that were altered")
    probe = torch.view_as_complex(tensors.pop("probe"))
    mean_counts = float(tensors.pop("mean_counts"))
    weights = {name.removeprefix(_NETWORK): value for name, value in tensors.items()}
    try:
        # Without memory of its own: what is allocated is decided by the file's tensors, not by its header.
        with torch.device("meta"):
            model = PtychoModel(config, probe.numpy())
        model.network.load_state_dict(weights, assign=True)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise _broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    model.probe = probe
    return Bundle(model.eval(), mean_counts, provenance)


def _check_tensors(path: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Names, dtypes and values of all tensors, and the shapes of those that are not weights."""
    wanted = {"probe": (config.modes, config.data.N, config.data.N, 2), "mean_counts": (1,)}
    for name, shape in wanted.items():
        found = tuple(tensors[name].shape) if name in tensors else "none"
        if found != shape:
            raise _broken(path, f"'{name}' of shape {shape}", str(found))
    for name, value in tensors.items():
        dtype = torch.float64 if name == "mean_counts" else torch.float32
        if not (name in wanted or name.startswith(_NETWORK)) or value.dtype != dtype:
            raise _broken(path, f"'probe', 'mean_counts' and '{_NETWORK}...', as {dtype}", f"'{name}' as {value.dtype}")
    broken = _not_finite(tensors)
    if broken:
        raise _broken(path, "finite values", f"NaN or infinite values in {broken}")
    if not tensors["probe"].any() or not float(tensors["mean_counts"]) > 0:
        raise _broken(path, "a probe with light and positive 'mean_counts'", "zeros")


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(name for name, value in tensors.items() if not torch.isfinite(value).all())


def _digest(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of settings and tensors, as specs/bundle.md BUN-6 has it."""
    found = hashlib.sha256()
    for key in ("config", "provenance"):
        found.update(f"{key}\n{header[key]}\n".encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name}\n{'x'.join(map(str, value.shape))}\n".encode())
        found.update(np.ascontiguousarray(value.numpy()).data)
    return found.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: the file may be replaced while the model is in use.
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
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
    except (KeyError, ValueError, RecursionError) as error:
        raise _broken(path, f"JSON under '{key}'", repr(error)) from error
    if not isinstance(value, dict):
        raise _broken(path, f"a JSON object under '{key}'", type(value).__name__)
    return value


def _broken(path: Path, expected: str, found: str) -> ContractError:
    return ContractError(Problem(str(path), "bundle.broken", expected, found, "train again or copy the file again"))
