"""Members of enumerations that the author's version of the contract doesn't know."""

from __future__ import annotations

import enum
from typing import TypeVar

Kind = TypeVar("Kind", bound=enum.StrEnum)

_WORD = "unheard-of"


def unknown_member(kind: type[Kind]) -> Kind:
    """Return a member that a later version of the contract might have."""
    member = str.__new__(kind, _WORD)
    member._name_ = _WORD.upper().replace("-", "_")
    member._value_ = _WORD
    return member
