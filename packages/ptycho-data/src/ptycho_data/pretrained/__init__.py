"""Weights that are shipped, for both backends (specs/prior.md, PRI-7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem

from ptycho_data.tensor_files import READ_ERRORS, read_tensors, tensor_digest, write_tensors

PRIOR_FILE = Path(__file__).parent / "prior.safetensors"
_FORMAT, _SCHEMA, _SEALED = "ptycho-prior", "1", ("provenance",)


def prior_weights(path: Path = PRIOR_FILE) -> dict[str, NDArray[np.float32]]:
    """Weights of the learned prior by name, (out, in, kh, kw) and (out,), read now.

    Raises:
        ContractError: ``prior.broken``, not a whole, unaltered file of a prior.
    """
    return _read(path)[1]


def prior_provenance(path: Path = PRIOR_FILE) -> dict[str, Any]:
    """How the weights were made: settings of the training, versions, final loss.

    Raises:
        ContractError: as :func:`prior_weights`.
    """
    return dict(json.loads(_read(path)[0]["provenance"]))


def write_prior(path: Path, weights: dict[str, NDArray[np.float32]], provenance: dict[str, Any]) -> None:
    """Write the file of a prior; what was at ``path`` is replaced in one step.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    header = {"format": _FORMAT, "schema": _SCHEMA, "provenance": json.dumps(provenance)}
    write_tensors(path, weights, header, sealed=_SEALED)


def _read(path: Path) -> tuple[dict[str, str], dict[str, NDArray[np.float32]]]:
    try:
        header, tensors = read_tensors(path)
        if (header.get("format"), header.get("schema")) != (_FORMAT, _SCHEMA):
            raise ValueError(f"format {header.get('format')!r}, schema {header.get('schema')!r}")
        if header["sha256"] != tensor_digest(header, tensors, _SEALED):
            raise ValueError("content that was altered")
    except READ_ERRORS as error:
        raise ContractError(
            Problem(
                str(path),
                "prior.broken",
                "the weights of a learned prior",
                " ".join(str(error).split()),
                "install ptycho-data again",
            )
        ) from error
    return header, tensors
