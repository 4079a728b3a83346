"""A trained model as one ``.safetensors`` file: the same file for both backends (specs/bundle.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_data.bundle_file import NETWORK, BundleFile, broken, read_bundle, write_bundle

from ptycho_tf.framework import tf
from ptycho_tf.layers import put_weights, shapes_only
from ptycho_tf.model import PtychoModel
from ptycho_tf.tensor_files import TENSOR_FILES


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model with what it was trained on.

    Attributes:
        model: In float32.
        mean_counts: Mean photons a pattern of the training patterns: the frozen gauge of the training set.
        provenance: JSON values: versions, settings, inputs and results of the training.
    """

    model: PtychoModel
    mean_counts: float
    provenance: Mapping[str, Any]


def save_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle; what was at ``path`` is replaced in one step, only when all is written.

    Raises:
        WorkFailedError: weights that are NaN or infinite.
    """
    model = bundle.model
    values = {name: variable.numpy() for name, variable in model.weights.items()}
    content = BundleFile(model.config, values, model.probe.numpy(), bundle.mean_counts, bundle.provenance)
    write_bundle(path, content, TENSOR_FILES)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle. Nothing in the file is executed, and no more memory taken than its tensors need.

    Raises:
        MissingFileError: no such file.
        ContractError: not a bundle, truncated or altered, of an unknown schema, or with missing, additional or
            misshapen tensors.
    """
    content = read_bundle(path, TENSOR_FILES)
    try:
        # Places without memory of their own: what is allocated is decided by the file's tensors, not by its header.
        model = PtychoModel(content.config, content.probe, make=shapes_only)
        wanted = {name: place.shape for name, place in model.weights.items()}
    except (ValueError, OverflowError, TypeError) as error:
        raise broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    found = {name: value.shape for name, value in content.weights.items()}
    if wanted != found:
        raise broken(path, "the tensors of its configuration", _difference(wanted, found))
    put_weights(model.network, content.weights, NETWORK)
    # As it is in the file, bit for bit, and not brought to unit energy once more.
    model.probe = tf.constant(content.probe)
    return Bundle(model, content.mean_counts, content.provenance)


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    missing, additional = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{name} of {found[name]} instead of {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    groups = {"missing": missing, "additional": additional, "misshapen": misshapen}
    return "; ".join(f"{word}: {', '.join(names[:8])}" for word, names in groups.items() if names)
