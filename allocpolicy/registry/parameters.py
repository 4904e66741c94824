"""The parameters of a method, without importing `inspect` where it is a plain one."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import NamedTuple

# Of a code object's flags; source: CPython's Include/cpython/code.h.
_VAR_KEYWORDS = 0x08
_COROUTINE = 0x80


class Parameters(NamedTuple):
    """What a method can and must be given, but for ``self`` and ``*others``."""

    is_coroutine: bool
    takes_any: bool  #: any keyword
    positional_only: tuple[str, ...]
    by_keyword: tuple[str, ...]
    needed: tuple[str, ...]  #: those that have no default


def of(method: object) -> Parameters:
    """Return the parameters of what can be called.

    :raises ValueError: when it has no signature.
    """
    function = method.__func__ if isinstance(method, MethodType) else None
    # Whatever marks or wraps a function leaves an attribute on it.
    if type(function) is not FunctionType or function.__dict__:
        return _inspected(method)
    return _plain(function) if function.__code__.co_argcount else _inspected(method)


def _plain(function: FunctionType) -> Parameters:
    code = function.__code__
    count, only = code.co_argcount, code.co_posonlyargcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    without_default = {
        *names[: count - len(function.__defaults__ or ())],
        *(set(names[count:]) - (function.__kwdefaults__ or {}).keys()),
    }
    return Parameters(
        is_coroutine=bool(code.co_flags & _COROUTINE),
        takes_any=bool(code.co_flags & _VAR_KEYWORDS),
        positional_only=names[1:only],
        by_keyword=names[max(only, 1) :],
        needed=tuple(name for name in names[1:] if name in without_default),
    )


def _inspected(method: object) -> Parameters:
    import inspect
    from inspect import Parameter

    assert callable(method)
    parameters = inspect.signature(method).parameters.values()
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return Parameters(
        is_coroutine=inspect.iscoroutinefunction(method),
        takes_any=any(one.kind is Parameter.VAR_KEYWORD for one in parameters),
        positional_only=tuple(
            one.name for one in parameters if one.kind is Parameter.POSITIONAL_ONLY
        ),
        by_keyword=tuple(one.name for one in parameters if one.kind in kinds),
        needed=tuple(
            one.name
            for one in parameters
            if one.default is Parameter.empty
            and one.kind in (*kinds, Parameter.POSITIONAL_ONLY)
        ),
    )
