"""Ptychography in PyTorch: read or simulate a scan, train, infer, reconstruct, evaluate, plot.

>>> import ptycho_torch as pt
>>> scan = pt.simulate(N=32, n_patterns=64, step_px=3, seed=1)
>>> image, summary = pt.reconstruct(scan, epochs=2, accelerator="cpu")
>>> image.object.dtype
dtype('complex64')

The functions are described in :mod:`ptycho_data.workflows.facade`. They are loaded when they are first used.
"""

from typing import Any

__all__ = [
    "evaluate",
    "infer",
    "load",
    "plots",
    "read_scan",
    "reconstruct",
    "save",
    "scan_from_arrays",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ptycho_data.workflows.facade import facade_attribute

    return facade_attribute(__name__, name)


def __dir__() -> list[str]:
    return __all__
