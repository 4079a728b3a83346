"""A trained model as one ``.safetensors`` file: the same file for both backends (specs/bundle.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_data.bundle_file import NETWORK, Bundle, BundleFile, broken, read_bundle, write_bundle

from ptycho_tf.framework import tf
from ptycho_tf.layers import put_weights, shapes_only
from ptycho_tf.model import PtychoModel

__all__ = ["Bundle", "load_bundle", "save_bundle"]


def save_bundle(path: Path | str, bundle: Bundle) -> None:
    """Write a bundle; errors as :func:`ptycho_data.bundle_file.write_bundle`."""
    model: PtychoModel = bundle.model
    weights, probe = model.weight_arrays(), model.probe_array()
    write_bundle(Path(path), BundleFile(model.config, weights, probe, bundle.mean_counts, bundle.provenance))


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle; errors as :func:`ptycho_data.bundle_file.read_bundle`, also for tensors that do not fit."""
    path = Path(path)
    content = read_bundle(path)
    try:
        # Variables without allocated memory: the file's tensors decide what is allocated, not its header.
        model = PtychoModel(content.config, content.probe, make=shapes_only)
        requested = {name: place.shape for name, place in model.weights.items()}
    except (ValueError, OverflowError, TypeError) as error:
        raise broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    present = {name: value.shape for name, value in content.weights.items()}
    if requested != present:
        raise broken(path, "the tensors of its configuration", _difference(requested, present))
    put_weights(model.network, content.weights, NETWORK)
    # As in the file, bit for bit: not normalised to unit energy again.
    model.probe = tf.constant(content.probe)
    return Bundle(model, content.mean_counts, content.provenance)


def _difference(requested: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    missing, additional = sorted(requested.keys() - present.keys()), sorted(present.keys() - requested.keys())
    misshapen = [
        f"{name} of {present[name]} instead of {requested[name]}"
        for name in requested
        if name in present and present[name] != requested[name]
    ]
    groups = {"missing": missing, "additional": additional, "misshapen": misshapen}
    return "; ".join(f"{word}: {', '.join(names[:8])}" for word, names in groups.items() if names)
