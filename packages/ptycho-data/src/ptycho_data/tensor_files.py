"""How ``.safetensors`` files are read and written: a backend hands it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorFiles:
    """The functions of the ``safetensors`` library: this package does not depend on it.

    Attributes:
        save: ``safetensors.numpy.save_file``.
        open: ``safetensors.safe_open``.
        error: ``safetensors.SafetensorError``.
    """

    save: Callable[..., None]
    open: Callable[..., Any]
    error: type[Exception]
