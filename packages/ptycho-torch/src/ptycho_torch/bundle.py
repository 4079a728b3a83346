"""A trained model as one ``.safetensors`` file: tensors, and everything else as JSON (specs/bundle.md)."""

from __future__ import annotations

from pathlib import Path

import torch
from ptycho_data.bundle_file import NETWORK, Bundle, BundleFile, broken, read_bundle, write_bundle

from ptycho_torch.model import PtychoModel

__all__ = ["Bundle", "load_bundle", "save_bundle"]


def save_bundle(path: Path | str, bundle: Bundle) -> None:
    """Write a bundle; errors as :func:`ptycho_data.bundle_file.write_bundle`."""
    model: PtychoModel = bundle.model
    content = BundleFile(
        model.config, model.weight_arrays(), model.probe_array(), bundle.mean_counts, bundle.provenance
    )
    write_bundle(Path(path), content)


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle; errors as :func:`ptycho_data.bundle_file.read_bundle`, also for tensors that do not fit."""
    path = Path(path)
    content = read_bundle(path)
    # Copies, aligned as torch aligns memory: they compute the same bits as the model that was saved.
    weights = {name.removeprefix(NETWORK): torch.from_numpy(value).clone() for name, value in content.weights.items()}
    try:
        # Without allocated memory: the file's tensors decide what is allocated, not its header.
        with torch.device("meta"):
            model = PtychoModel(content.config, content.probe)
        model.network.load_state_dict(weights, assign=True)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    # As in the file, bit for bit: not normalised to unit energy again.
    model.probe = torch.from_numpy(content.probe).clone()
    return Bundle(model.eval(), content.mean_counts, content.provenance)
