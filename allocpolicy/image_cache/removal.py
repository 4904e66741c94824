"""Removing an entry of an image cache, and telling of it."""

from __future__ import annotations

from allocpolicy.image_cache import entry, users
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
        is_gone = entry.remove(cache, name, held=held)
        if is_gone:
            if found.kind is Kind.CONVERTED:
                users.forget_all(cache, name)
            done(None)
    return is_gone
