"""Lightning checkpoints as safetensors plus JSON instead of pickles (specs/bundle.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from numpy.typing import NDArray
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.fitting import TrainingCheckpoints
from ptycho_data.tensor_files import READ_ERRORS, read_tensors, tensor_digest, write_tensors

_FORMAT = "ptycho-checkpoint"
_SEALED = ("format", "tree")


class SafetensorsCheckpoints(CheckpointIO):
    """Writes a checkpoint's tensors as safetensors and the rest as JSON in its header.

    Args:
        training: The checkpoint that the training resumes from has a file format of its own (CKP-7); default: none.
    """

    def __init__(self, training: TrainingCheckpoints | None = None) -> None:
        super().__init__()
        self._training = training

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write atomically; a value that is neither tensor nor JSON raises TypeError with its name."""
        tensors: dict[str, NDArray[Any]] = {}
        tree = _strip(checkpoint, "", tensors)
        if self._training is not None and Path(path) == self._training.path:
            self._training.write(int(checkpoint["epoch"]), tensors, tree)
        else:
            write_tensors(Path(path), tensors, {"format": _FORMAT, "tree": json.dumps(tree)}, sealed=_SEALED)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what :meth:`save_checkpoint` wrote.

        Raises:
            ContractError: not a checkpoint, or a broken one.
        """
        try:
            if self._training is not None and self._training.state and Path(path) == self._training.path:
                state = self._training.state
                restored: dict[str, Any] = _restore(state.content, state.arrays)
                return restored
            header, tensors = read_tensors(Path(path))
            if header.get("format") != _FORMAT:
                raise ValueError(f"format {header.get('format')!r}")
            if header["sha256"] != tensor_digest(header, tensors, _SEALED):
                raise ValueError("content that was altered")
            tree: dict[str, Any] = _restore(json.loads(header["tree"]), tensors)
        except READ_ERRORS as error:
            raise ContractError(
                Problem(
                    str(path),
                    "checkpoint.broken",
                    f"a whole checkpoint of format {_FORMAT}",
                    " ".join(str(error).split()),
                    "train from an earlier checkpoint",
                )
            ) from error
        return tree

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint; a missing one is fine."""
        Path(path).unlink(missing_ok=True)


def _strip(value: Any, where: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """JSON tree of a nested value; tensors move to ``tensors`` under their place in the tree."""
    if isinstance(value, torch.Tensor):
        # Copied, because safetensors refuses tensors with common memory; complex values as pairs, for every reader.
        real = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        where = where if where not in tensors else f"{where}#{len(tensors)}"  # keys 1 and "1", "a/b" and a, b
        real = real.detach().cpu().clone().contiguous()
        half = real.dtype == torch.bfloat16  # which NumPy lacks
        tensors[where] = (real.view(torch.int16) if half else real).numpy()
        return {"tensor": where, "complex": value.is_complex(), "bfloat16": half}
    if isinstance(value, dict):
        items = [[_strip(key, "", {}), _strip(item, f"{where}/{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        return {
            "list" if isinstance(value, list) else "tuple": [
                _strip(item, f"{where}/{number}", tensors) for number, item in enumerate(value)
            ]
        }
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, Path):
        return {"value": str(value)}
    raise TypeError(f"checkpoint entry {where} is a {type(value).__name__}, neither tensor nor JSON")


def _restore(node: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
    if "tensor" in node:
        # A copy, in memory that torch has aligned, with the strides that complex values need also if it is empty.
        tensor = torch.from_numpy(tensors[node["tensor"]]).clone(memory_format=torch.contiguous_format)
        tensor = tensor.view(torch.bfloat16) if node["bfloat16"] else tensor
        return torch.view_as_complex(tensor) if node["complex"] else tensor
    if "items" in node:
        return {_restore(key, {}): _restore(item, tensors) for key, item in node["items"]}
    if "list" in node:
        return [_restore(item, tensors) for item in node["list"]]
    if "tuple" in node:
        return tuple(_restore(item, tensors) for item in node["tuple"])
    return node["value"]
