"""A trained model as one ``.safetensors`` file: tensors, and everything else as JSON (specs/bundle.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ptycho_data.bundle_file import NETWORK, BundleFile, broken, read_bundle, write_bundle

from ptycho_torch.model import PtychoModel
from ptycho_torch.tensor_files import TENSOR_FILES


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
    model = bundle.model
    weights = {name: value.cpu().numpy() for name, value in model.network.state_dict(prefix=NETWORK).items()}
    content = BundleFile(model.config, weights, model.probe.cpu().numpy(), bundle.mean_counts, bundle.provenance)
    write_bundle(Path(path), content, TENSOR_FILES)


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle. Nothing in the file is executed, and no more memory taken than its tensors need.

    Raises:
        MissingFileError: no such file.
        ContractError: not a bundle, truncated or altered, of an unknown schema, or with missing, additional or
            misshapen tensors.
    """
    path = Path(path)
    content = read_bundle(path, TENSOR_FILES)
    # Copies, in memory aligned as torch aligns it: the same bits as from the model that was saved.
    weights = {name.removeprefix(NETWORK): torch.from_numpy(value).clone() for name, value in content.weights.items()}
    try:
        # Without memory of its own: what is allocated is decided by the file's tensors, not by its header.
        with torch.device("meta"):
            model = PtychoModel(content.config, content.probe)
        model.network.load_state_dict(weights, assign=True)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise broken(path, "the tensors of its configuration", " ".join(str(error).split())) from error
    # As it is in the file, bit for bit, and not brought to unit energy once more.
    model.probe = torch.from_numpy(content.probe).clone()
    return Bundle(model.eval(), content.mean_counts, content.provenance)
