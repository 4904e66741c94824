"""Removing an entry of an image cache, and telling of it."""

from __future__ import annotations

import os

from allocpolicy.image_cache import entry, prepared, users
from allocpolicy.image_cache.described import Entry, Kind
from allocpolicy.image_cache.entry import Held
from allocpolicy.image_cache.home import Cache
from allocpolicy.log import telling


def remove(cache: Cache, found: Entry, *, held: Held) -> bool:
    """Remove an entry, and what is known of its users; return whether it is gone."""
    before = {
        "format": found.source_format or found.format,
        "virtual_size": found.virtual_size,
        "actual_size": found.actual_size,
    }
    name = found.path.name
    with telling.changing("cache prune", file=found.path, before=before) as done:
        is_gone = _removed(cache, name, kind=found.kind, file=held.status)
        if is_gone:
            done(None)
    return is_gone


def _removed(cache: Cache, name: str, *, kind: Kind, file: os.stat_result) -> bool:
    if kind is Kind.PREPARED:
        return prepared.remove(cache, name, file=file)
    is_gone = entry.remove(cache, name, file=file)
    if is_gone:
        users.forget_all(cache, name)
    return is_gone
