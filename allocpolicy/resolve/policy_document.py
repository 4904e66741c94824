"""A policy as JSON data, and back: exactly the same one, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allocpolicy.contract import policy as words
from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.contract.policy import Policy

# What a policy consists of, beside plain values and tuples of all these.
_RECORDS: dict[str, Any] = {
    one.__name__: one
    for one in (
        *(Policy, Headroom, Limits),
        *(words.Libvirt, words.Machines, words.PreparedDisks),
    )
}
_WORDS: dict[str, Any] = {
    one.__name__: one
    for one in (
        words.ChangeLog,
        words.Convert,
        words.Otherwise,
        words.SnapshotPolicy,
        words.ThinIO,
    )
}
_PLAIN = (bool, float, int, str, type(None))


def encoded(policy: Policy) -> object:
    """Return the policy as data.

    :raises ValueError: when it has something that can't be had back.
    """
    return _encoded(policy)


def decoded(data: object) -> Policy:
    """Return the policy that the data stands for.

    :raises ValueError: when it is no policy's.
    """
    policy = _decoded(data)
    if type(policy) is not Policy:
        raise ValueError(data)
    return policy


def paths(policy: Policy) -> tuple[str, ...]:
    """Return all paths in the policy."""
    return tuple(_paths(policy))


def _paths(value: object) -> Iterator[str]:
    if isinstance(value, Path):
        yield str(value)
    elif isinstance(value, tuple):
        for one in value:
            yield from _paths(one)
    elif type(value) in _RECORDS.values():
        for name in _fields(type(value)):
            yield from _paths(getattr(value, name))


def _encoded(value: object) -> object:
    kind = type(value)
    name = kind.__name__
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return ["tuple", [_encoded(one) for one in _members(value)]]
    if isinstance(value, Path):
        return ["Path", str(value)]
    if _WORDS.get(name) is kind:
        return [name, str(value)]
    if _RECORDS.get(name) is kind:
        return [name, {one: _encoded(getattr(value, one)) for one in _fields(kind)}]
    raise ValueError(value)


def _decoded(data: object) -> object:
    if type(data) in _PLAIN:
        return data
    match data:
        case "tuple", list(members):
            return tuple(map(_decoded, members))
        case "Path", str(text):
            return Path(text)
        case str(name), str(word) if name in _WORDS:
            return _WORDS[name](word)
        case str(name), dict(fields) if name in _RECORDS:
            kind = _RECORDS[name]
            if fields.keys() == set(_fields(kind)):
                return kind(**{one: _decoded(value) for one, value in fields.items()})
    raise ValueError(data)


def _fields(kind: type) -> tuple[str, ...]:
    fields: tuple[str, ...] = vars(kind)["__slots__"]
    return fields


def _members(value: object) -> tuple[object, ...]:
    assert isinstance(value, tuple)
    return value
