"""Prepared disks: made once, kept in the image cache, cloned for each disk like them.

One is ``<sha256 of its whole recipe>.prepared.<format>``, mode 0444. The recipe names
the content of the base image as well: when that changes, another name is looked for.

It is checked when it is made, and what it was then is recorded in ``.prepared``, under
its name: it is believed as long as the file of that name is the very same, unchanged.
No disk needs it once it is cloned, so that removing it is safe while no job holds it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import Error
from allocpolicy.image_cache import home, location
from allocpolicy.image_cache.home import Cache, Home
from allocpolicy.log import telling
from allocpolicy.record import dataclass
from allocpolicy.storage import directories
from allocpolicy.storage.directories import Directory

if TYPE_CHECKING:
    from allocpolicy.image_cache.origin import Image
    from allocpolicy.image_cache.prepared_record import Record

_AT_ONCE = 8  # of the same images: sizes, formats


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared disk, open and held against `entries.prune`, and its record."""

    path: Path
    fd: int
    record: Record
    cache: Cache

    @property
    def format(self) -> DiskFormat:
        """Return its format, which its name has."""
        return DiskFormat(self.path.suffix[1:])

    def drop(self) -> None:
        """Remove it: a disk that was cloned from it is not as it should be.

        :raises Error: (or OSError) when that can't be.
        """
        state = {"virtual_size": self.record.virtual_size}
        with telling.changing("cache remove", file=self.path, before=state) as done:
            remove(self.cache, self.path.name, file=os.fstat(self.fd))
            done(None)


@contextlib.contextmanager
def place(disks: Directory, *, configured: Path | None) -> Iterator[Home]:
    """Find the image cache for disks in a directory.

    :param configured: the operator's image_cache_dir.
    :raises InvalidRequest: as `home.beside` and `home.named`.
    """
    with home.named(configured) if configured else home.beside(disks) as found:
        yield found


@contextlib.contextmanager
def found(
    name: str, *, disks: Directory, configured: Path | None
) -> Iterator[Prepared | None]:
    """Yield the prepared disk of that name; None if there is none to be believed.

    It is never a reason to fail: without it, a disk is made by its steps.
    """
    with contextlib.ExitStack() as stack:
        one = None
        with contextlib.suppress(Error, OSError):
            at = stack.enter_context(place(disks, configured=configured))
            cache = stack.enter_context(home.opened(at))
            one = None if cache is None else _opened(cache, name, stack)
        yield one


def _opened(cache: Cache, name: str, stack: contextlib.ExitStack) -> Prepared | None:
    # Where nothing was prepared, nobody needs these.
    from allocpolicy.image_cache import entry, prepared_record
    from allocpolicy.storage import unchanged

    record = prepared_record.read(cache, name)
    if record is None:
        return None
    fd = entry.open_shared(cache, name)
    if fd is None:
        return None
    stack.callback(os.close, fd)
    if record.file != unchanged.state(fd):
        return None
    return Prepared(path=cache.path / name, fd=fd, record=record, cache=cache)


@contextlib.contextmanager
def of_images(cache: Cache, images: tuple[Image, ...]) -> Iterator[list[Prepared]]:
    """Yield the prepared disks that were made from these images, held; they may be few.

    With no images there are none: they have no data in common.
    """
    from allocpolicy.image_cache import origin

    with contextlib.ExitStack() as stack:
        found = []
        for name in _names(cache) if images else ():
            with contextlib.suppress(Error, OSError):
                one = _opened(cache, name, stack)
                if one is not None and origin.recorded(one.fd) == images:
                    found.append(one)
            if len(found) == _AT_ONCE:
                break
        yield found


def _names(cache: Cache) -> list[str]:
    with contextlib.suppress(OSError), directories.readable(cache.directory) as fd:
        return sorted(filter(location.is_prepared_name, os.listdir(fd)))
    return []


def remove(cache: Cache, name: str, *, file: os.stat_result) -> bool:
    """Remove a prepared disk and its record; return False if the name is another's.

    :raises OSError: as unlink(2).
    """
    from allocpolicy.image_cache import entry, prepared_record

    prepared_record.forget(cache, name)
    return entry.remove(cache, name, file=file)
