"""What a plugin's method is like, without importing `inspect` where it is plain."""

from __future__ import annotations

from types import FunctionType, MethodType

from allocpolicy.record import dataclass

# Of a code object's flags; source: CPython's Include/cpython/code.h.
_VAR_KEYWORDS = 0x08
_COROUTINE, _GENERATORS = 0x80, 0x20 | 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a method can and must be given, but for ``self`` and ``*others``."""

    takes_any: bool  #: any keyword
    positional_only: tuple[str, ...]
    by_keyword: tuple[str, ...]
    needed: tuple[str, ...]  #: those that have no default


def parameters(method: object) -> Parameters:
    """Return the parameters of what can be called.

    :raises ValueError: when it has no signature.
    """
    function = _function(method)
    return _inspected_parameters(method) if function is None else _plain(function)


def deferred(method: object) -> str | None:
    """Return what a call would make instead of doing the work; None: it does it."""
    function = _function(method)
    if function is None:
        return _inspected_deferral(method)
    flags = function.__code__.co_flags
    if flags & _COROUTINE:
        return "a coroutine"
    return "a generator" if flags & _GENERATORS else None


def _function(method: object) -> FunctionType | None:
    """Return the function of a method if its code tells everything."""
    function = method.__func__ if isinstance(method, MethodType) else None
    # Whatever marks or wraps a function leaves an attribute on it.
    if type(function) is not FunctionType or function.__dict__:
        return None
    return function if function.__code__.co_argcount else None


def _plain(function: FunctionType) -> Parameters:
    code = function.__code__
    count, only = code.co_argcount, code.co_posonlyargcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    without_default = {
        *names[: count - len(function.__defaults__ or ())],
        *(set(names[count:]) - (function.__kwdefaults__ or {}).keys()),
    }
    return Parameters(
        takes_any=bool(code.co_flags & _VAR_KEYWORDS),
        positional_only=names[1:only],
        by_keyword=names[max(only, 1) :],
        needed=tuple(name for name in names[1:] if name in without_default),
    )


def _inspected_parameters(method: object) -> Parameters:
    import inspect
    from inspect import Parameter

    assert callable(method)
    found = inspect.signature(method).parameters.values()
    keyword = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    positional = (Parameter.POSITIONAL_ONLY,)
    return Parameters(
        takes_any=any(one.kind is Parameter.VAR_KEYWORD for one in found),
        positional_only=tuple(one.name for one in found if one.kind in positional),
        by_keyword=tuple(one.name for one in found if one.kind in keyword),
        needed=tuple(
            one.name
            for one in found
            if one.default is Parameter.empty and one.kind in (*keyword, *positional)
        ),
    )


def _inspected_deferral(method: object) -> str | None:
    import inspect

    if inspect.iscoroutinefunction(method):
        return "a coroutine"
    is_one = inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method)
    return "a generator" if is_one else None
