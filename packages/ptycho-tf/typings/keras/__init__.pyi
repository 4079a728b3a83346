# Of Keras, which has no types: what is subclassed here. Everything else is Any.
from typing import Any

from keras import callbacks as callbacks
from keras import metrics as metrics
from keras import optimizers as optimizers

class Model:
    optimizer: Any
    built: bool
    stop_training: bool
    def compile(self, **options: Any) -> None: ...
    def fit(self, *args: Any, **options: Any) -> Any: ...

def __getattr__(name: str) -> Any: ...
