"""TensorFlow and its Keras, imported here first: with a clear message if it is missing, and without its banner."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_banner() -> Iterator[None]:
    """TensorFlow's libraries write a banner to file descriptor 2 before they read their log level."""
    # Errors only, unless the user says otherwise; also in child processes, which inherit it.
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1") or "tensorflow" in sys.modules:
        yield  # the user wants to see it, or it is too late
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _with_as_many_threads() -> None:
    """Limit TensorFlow's thread pools, which ignore OMP_NUM_THREADS and the variables of other libraries."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested) > 0:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(name, requested)


_with_as_many_threads()
try:
    with _without_banner():
        import keras
        import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name not in ("keras", "tensorflow"):
        raise
    raise ModuleNotFoundError(
        "ptycho-tf needs TensorFlow: pip install 'ptycho-tf[tensorflow]', or 'ptycho-tf[cpu]' for its build "
        "without GPU",
        name="tensorflow",
    ) from error

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras is set up for {keras.backend.backend()!r} (KERAS_BACKEND or ~/.keras/keras.json): ptycho-tf needs it "
        "on TensorFlow; set KERAS_BACKEND=tensorflow"
    )

__all__ = ["keras", "tf"]
