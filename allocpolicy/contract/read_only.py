"""Mappings that strategies can read but not change: options, facts, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

Value_co = TypeVar("Value_co", covariant=True)


class ReadOnly(Mapping[str, Value_co]):
    """A mapping that can't be changed, and can be pickled, compared and hashed.

    It equals any mapping with the same items.
    """

    __slots__ = ("_items",)

    _items: dict[str, Value_co]

    def __init__(self, items: Mapping[str, Value_co] | None = None) -> None:
        object.__setattr__(self, "_items", dict(items or {}))

    def __getitem__(self, key: str) -> Value_co:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[type[ReadOnly[Value_co]], tuple[dict[str, Value_co]]]:
        return type(self), (dict(self._items),)


def frozen(value: object) -> object:
    """Return a copy in which mappings are `ReadOnly`, and lists are tuples."""
    if isinstance(value, Mapping):
        return ReadOnly({str(key): frozen(one) for key, one in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(one) for one in value)
    return value


def thawed(value: object) -> object:
    """Return a copy as JSON has it: mappings are dicts, and sequences are lists."""
    if isinstance(value, Mapping):
        return {key: thawed(one) for key, one in value.items()}
    return [thawed(one) for one in value] if isinstance(value, list | tuple) else value
