# Of TensorFlow, which has no types: what is used as a decorator here. Everything else is Any.
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from tensorflow import autograph as autograph

_P = ParamSpec("_P")
_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

def custom_gradient(f: Callable[_P, tuple[_T, Any]]) -> Callable[_P, _T]: ...
@overload
def function(func: _F, **options: Any) -> Any: ...
@overload
def function(**options: Any) -> Callable[[_F], _F]: ...
def __getattr__(name: str) -> Any: ...
