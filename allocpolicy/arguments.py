"""What a program gives, made what a field or an argument is, or refused in words.

A script has paths, sizes and choices as text. Records and functions that it fills take
them at the border, once: behind it a path is a `Path`, a size is an int of bytes, and a
choice is a member of its enum. What can't be that is refused where it is given, by its
name, and never fails deep inside.
"""

from __future__ import annotations

import enum
import math
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from allocpolicy import size as sizes
from allocpolicy.errors import InvalidRequest
from allocpolicy.wording import choices, named

StrPath = str | os.PathLike[str]  # a path as callers give it
Size = int  # bytes; callers may give text such as ``40G``

Fit = Callable[[Any, str], Any]  # of a value and its name
Member = TypeVar("Member", bound=enum.Enum)
Kind = TypeVar("Kind")

_PATH = "a path: a str, or a pathlib.Path"


def path(value: object, name: str) -> Path:
    """Return a path, of text or of anything that has one.

    :raises InvalidRequest: for bytes, for what no path can be, and for anything else.
    """
    if not isinstance(value, str | os.PathLike):
        refuse(value, name, _PATH)
    text = os.fspath(value)
    if not isinstance(text, str):
        refuse(text, name, _PATH)
    if not text:
        refuse(text, name, "a path")
    if "\0" in text or not _can_be_encoded(text):
        refuse(text, name, "a path that bytes can stand for, without NUL")
    return value if isinstance(value, Path) else Path(text)


def paths(value: object, name: str) -> tuple[Path, ...]:
    """Return the paths of a list, or of a single path.

    :raises InvalidRequest: as `path` does, and for what is no list.
    """
    if isinstance(value, str | bytes | os.PathLike):
        return (path(value, name),)
    try:
        given = iter(value)  # type: ignore[call-overload]
    except TypeError:
        refuse(value, name, "a path, or a list of paths")
    return tuple(path(one, f"{name}[{at}]") for at, one in enumerate(given))


def size(value: object, name: str) -> int:
    """Return bytes, of an int or of text such as ``40G``.

    :raises InvalidRequest: for what is no size.
    """
    if isinstance(value, str):
        try:
            return sizes.parse(value)
        except InvalidRequest as error:
            raise InvalidRequest(f"{name}: {error.reason}") from error
    whole = _whole(value)
    if whole is None or whole < 0:
        refuse(value, name, "bytes: an int such as 40 << 30, or a str such as '40G'")
    return whole


def number(value: object, name: str) -> int:
    """Return a whole number.

    :raises InvalidRequest: for anything else.
    """
    whole = _whole(value)
    return refuse(value, name, "a whole number") if whole is None else whole


def real(value: object, name: str) -> float:
    """Return a finite number.

    :raises InvalidRequest: for anything else.
    """
    wanted = "a finite number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(value, name, wanted)
    return value if math.isfinite(value) else refuse(value, name, wanted)


def flag(value: object, name: str) -> bool:
    """Return whether it is so.

    :raises InvalidRequest: for what is neither True nor False.
    """
    return value if isinstance(value, bool) else refuse(value, name, "True or False")


def text(value: object, name: str) -> str:
    """Return text.

    :raises InvalidRequest: for anything else.
    """
    return value if isinstance(value, str) else refuse(value, name, "a str")


def member(kind: type[Member], value: object, name: str) -> Member:
    """Return the member of an enum of words that is meant.

    :raises InvalidRequest: for any other word, with those that are allowed.
    """
    if isinstance(value, kind):
        return value
    words = [str(one.value) for one in kind]
    if isinstance(value, str):
        if value in words:
            return kind(value)
        listed = choices(words, nearest_to=value)
        raise InvalidRequest(f"{name} is {named(value)}; {listed}")
    return refuse(value, name, f"one of {', '.join(words)}")


def instance(kind: type[Kind], value: object, name: str) -> Kind:
    """Return a value that has to be of a class.

    :raises InvalidRequest: for anything else.
    """
    if isinstance(value, kind):
        return value
    return refuse(value, name, _a(kind.__name__))


def call(value: Kind, name: str) -> Kind:
    """Return what is called.

    :raises InvalidRequest: for what can't be.
    """
    return value if callable(value) else refuse(value, name, "what can be called")


def refuse(value: object, name: str, wanted: str) -> NoReturn:
    """Refuse a value.

    :raises InvalidRequest: which names it, what was given, and what is wanted.
    """
    raise InvalidRequest(f"{name} is {named(value)}: give {wanted}")


def _a(word: str) -> str:
    return f"{'an' if word[:1] in 'AEIOU' else 'a'} {word}"


def _can_be_encoded(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _whole(value: object) -> int | None:
    """Return a whole number, also one of numpy's; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def mapping(value: Any, name: str, item: Fit) -> dict[str, Any]:
    """Return a mapping from texts, whose values are what ``item`` makes of them.

    :raises InvalidRequest: for what is none.
    """
    return mapping_of(value, name, key=text, item=item)


def mapping_from_paths(value: Any, name: str, item: Fit) -> dict[Path, Any]:
    """Return a mapping from paths, whose values are what ``item`` makes of them.

    :raises InvalidRequest: for what is none.
    """
    return mapping_of(value, name, key=path, item=item)


def mapping_of(value: Any, name: str, *, key: Fit, item: Fit) -> dict[Any, Any]:
    """Return a mapping of what ``key`` and ``item`` make of its keys and values.

    :raises InvalidRequest: for what is none.
    """
    if not isinstance(value, Mapping):
        refuse(value, name, "a mapping, such as a dict")
    return {
        key(one, f"a key of {name}"): item(found, f"{name}[{named(one)}]")
        for one, found in value.items()
    }
