"""Records as JSON data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.record import asdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain(record: DataclassInstance | None) -> dict[str, object] | None:
    """Return the record as data of types that JSON and YAML have."""
    if record is None:
        return None
    return asdict(record, dict_factory=_plain_values)


def _plain_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, (Enum, Path)) else value
        for name, value in pairs
    }
