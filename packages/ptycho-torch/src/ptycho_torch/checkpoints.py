"""Lightning checkpoints as safetensors plus JSON instead of pickles (specs/bundle.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.atomic_files import atomic_write
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_FORMAT = "ptycho-checkpoint"


class SafetensorsCheckpoints(CheckpointIO):
    """Writes a checkpoint's tensors as safetensors and the rest as JSON in its header."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write atomically; a value that is neither tensor nor JSON raises TypeError with its name."""
        tensors: dict[str, torch.Tensor] = {}
        tree = _strip(checkpoint, "", tensors)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "tree": json.dumps(tree)})

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what :meth:`save_checkpoint` wrote.

        Raises:
            ContractError: not a checkpoint, or a broken one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            if header.get("format") != _FORMAT:
                raise ValueError(f"format {header.get('format')!r}")
            tree: dict[str, Any] = _restore(json.loads(header["tree"]), tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
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


def _strip(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON tree of a nested value; tensors move to ``tensors`` under their place in the tree."""
    if isinstance(value, torch.Tensor):
        # Copied, because safetensors refuses tensors with common memory; complex values as pairs, for every reader.
        real = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        where = where if where not in tensors else f"{where}#{len(tensors)}"  # keys 1 and "1", "a/b" and a, b
        tensors[where] = real.detach().cpu().clone().contiguous()
        return {"tensor": where, "complex": value.is_complex()}
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


def _restore(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if "tensor" in node:
        tensor = tensors[node["tensor"]]
        return torch.view_as_complex(tensor) if node["complex"] else tensor
    if "items" in node:
        return {_restore(key, {}): _restore(item, tensors) for key, item in node["items"]}
    if "list" in node:
        return [_restore(item, tensors) for item in node["list"]]
    if "tuple" in node:
        return tuple(_restore(item, tensors) for item in node["tuple"])
    return node["value"]
