"""TensorFlow computes; the Keras model that a training fitted is kept to look at."""

from __future__ import annotations

from typing import Any

import pytest
from ptycho_tf.framework import keras, tf


def pytest_configure(config: pytest.Config) -> None:
    """TensorFlow's own: Keras hands its variables to NumPy in a way that NumPy 2 will drop."""
    known = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras"
    config.addinivalue_line("filterwarnings", known)


@pytest.fixture(scope="session", autouse=True)
def _many_trainings_in_one_process() -> None:
    """TensorFlow logs advice against that; a command trains once."""
    tf.get_logger().setLevel("ERROR")


@pytest.fixture(scope="session")
def backend() -> str:
    """What computes."""
    return "tf"


@pytest.fixture(scope="session")
def absent_accelerator() -> str:
    """A device that TensorFlow never has."""
    return "mps"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Keras was given and did.

    ``loading`` (options of the training's loader), ``optimiser``, ``rates`` and ``deterministic`` (after each batch),
    ``dtypes`` and ``devices`` (of the variables), ``kernels`` (dtypes of the convolutions).
    """
    import ptycho_tf.training
    from ptycho_tf.layers import Conv
    from tensorflow.python.framework import config as switches

    seen: dict[str, Any] = {}
    make, fit, convolve = ptycho_tf.training.make_loader, keras.Model.fit, Conv.with_kernel

    def made(dataset: Any, **options: Any) -> Any:
        seen.setdefault("datasets", []).append(dataset)
        seen.setdefault("loading", options)
        return make(dataset, **options)

    def fitted(trainee: Any, *args: Any, callbacks: list[Any], **options: Any) -> Any:
        seen["parameters"] = sum(int(tf.size(variable)) for variable in trainee.trainable_variables)
        if seen.get("stop_before_fit"):
            raise InterruptedError("made, and not to be run")
        seen.update(optimiser=trainee.optimizer, rates=[], deterministic=[])

        def note(batch: int, logs: Any) -> None:
            seen["rates"].append(float(trainee.optimizer.learning_rate))
            seen["deterministic"].append(switches.is_op_determinism_enabled())

        watcher = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        history = fit(trainee, *args, callbacks=[*callbacks, watcher], **options)
        seen["dtypes"] = {tf.as_dtype(variable.dtype).name for variable in trainee.trainable_variables}
        seen["devices"] = {variable.device.split(":")[-2] for variable in trainee.trainable_variables}
        return history

    def convolved(image: Any, *args: Any, **options: Any) -> Any:
        seen.setdefault("kernels", set()).add(image.dtype.name)
        return convolve(image, *args, **options)

    monkeypatch.setattr(ptycho_tf.training, "make_loader", made)
    monkeypatch.setattr(keras.Model, "fit", fitted)
    monkeypatch.setattr(Conv, "with_kernel", staticmethod(convolved))
    return seen
