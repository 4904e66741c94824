"""Records made from records: with changes, or as dictionaries."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from allocpolicy import record_class

_ATOMIC = frozenset({bool, bytes, float, int, str, type(None)})

Made = Callable[[list[tuple[str, Any]]], Any]


def replace(record: Any, /, **changes: Any) -> Any:
    """Return a record like another, but for these changes."""
    fields = record_class.of(type(record))
    if fields is None:  # a plugin's own
        import dataclasses

        return dataclasses.replace(record, **changes)
    kept = {name: getattr(record, name) for name in fields if name not in changes}
    return type(record)(**kept, **changes)


def asdict(record: Any, *, dict_factory: Made = dict) -> Any:
    """Return a record, and those in it, as dictionaries."""
    if record_class.of(type(record)) is None:  # a plugin's own
        import dataclasses

        return dataclasses.asdict(record, dict_factory=dict_factory)
    return _plain(record, dict_factory)


def _plain(value: Any, made: Made) -> Any:
    kind = type(value)
    if kind in _ATOMIC or isinstance(value, enum.Enum):
        return value
    if (fields := record_class.of(kind)) is not None:
        return made([(name, _plain(getattr(value, name), made)) for name in fields])
    if kind in (list, tuple):
        return kind([_plain(one, made) for one in value])
    if kind is dict:
        return {_plain(key, made): _plain(one, made) for key, one in value.items()}
    if hasattr(kind, "__dataclass_fields__"):
        return asdict(value, dict_factory=made)
    import copy

    return copy.deepcopy(value)
