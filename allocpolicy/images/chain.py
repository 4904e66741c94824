"""Walking a qcow2's backing chain, by the names and formats that headers record.

There is one walk, whether the images are only described or opened to copy from. It is
read-only and takes no lock. It goes no further than the disk's `reach`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from allocpolicy.contract.facts import BackingFile, DiskFormat
from allocpolicy.errors import ImageError, OutOfReach
from allocpolicy.images import backing_name
from allocpolicy.images.reach import NOT_FOLLOWED, Reach
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.record import dataclass
from allocpolicy.storage import direct_io, writers
from allocpolicy.storage.credentials import User
from allocpolicy.storage.failure import refuse_failure
from allocpolicy.storage.inode import Inode, inode, marks
from allocpolicy.wording import shell_word

MAX_DEPTH = 200  # QEMU itself slows down long before that


class Layer(Protocol):
    """An image of a chain, as the walk needs it; raw images have no header.

    ``path`` has no symbolic links: relative names in the header start from it.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def inode(self) -> Inode: ...  # noqa: D102

    @property
    def header(self) -> Header | None: ...  # noqa: D102

    @property
    def writers(self) -> tuple[User, ...]: ...  # noqa: D102


AnyLayer = TypeVar("AnyLayer", bound=Layer)


def walk(
    top: Layer, *, reach: Reach, opened: Callable[[Path, DiskFormat, Reach], AnyLayer]
) -> Iterator[AnyLayer]:
    """Yield the images below the top image, nearest first.

    :param reach: the top image's; that of the images below it shrinks on the way.
    :param opened: opens the image at a path, in the format that the image above
        records, if it is within reach.
    :raises OutOfReach: where the chain is not to be followed.
    :raises ImageError: where the chain can't be followed: a backing file isn't a file,
        its recorded format is missing or unsupported, or the chain is a loop; and as
        ``opened`` does.
    """
    seen, above = {top.inode}, top
    while (named := _named_by(above)) is not None:
        layer = opened(named.path, _readable(named, reach=reach), reach)
        if layer.inode in seen or len(seen) > MAX_DEPTH:
            raise ImageError(named.path, "the backing chain is a loop")
        seen.add(layer.inode)
        yield layer
        above, reach = layer, reach.below(layer.writers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """A backing file as the header of the image ``by`` names it, and its path."""

    by: Path
    name: str
    path: Path
    format: str | None


def _named_by(layer: Layer) -> _Named | None:
    header = layer.header
    if header is None or header.backing_file is None:
        return None
    name = header.backing_file
    path = backing_name.path(name, image=layer.path)
    format = header.backing_format
    return _Named(by=layer.path, name=name, path=path, format=format)


def _readable(named: _Named, *, reach: Reach) -> DiskFormat:
    """Return the recorded format, if the backing file may be opened."""
    if not reach.followed:
        raise OutOfReach(named.path, NOT_FOLLOWED)
    if backing_name.has_protocol(named.name):
        reason = "it is not a file: QEMU takes what is before the colon for a protocol"
        raise ImageError(named.path, reason)
    if named.format in tuple(DiskFormat):
        return DiskFormat(named.format)
    reach.check_exists(named.path)  # a missing one needs another remedy
    if named.format:
        reason = f"its format is {named.format!r}, not raw or qcow2"
        raise ImageError(named.path, reason)
    # Without -b, rebase would drop the backing file.
    command = (
        "qemu-img",
        "rebase",
        "-u",
        "-b",
        named.name,
        "-F",
        "FORMAT",
        str(named.by),
    )
    typed = " ".join(map(shell_word, command))
    reason = f"its format is not recorded; record it with {typed}"
    raise ImageError(named.path, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """An image that was opened, read and closed again."""

    path: Path
    inode: Inode
    header: Header | None
    writers: tuple[User, ...] = ()
    backing_file: BackingFile | None = None


def chain(
    header: Header, *, fd: int, path: Path, reach: Reach
) -> tuple[BackingFile, ...]:
    """Return the images below an open one, nearest first.

    If the chain isn't followed to its end, the last one says why: it is missing, not a
    file, of unknown format, malformed, part of a loop, or out of reach.

    :raises StorageFailed: when the storage fails, which says nothing of the chain.
    """
    layers = [_Described(path=path, inode=inode(os.fstat(fd)), header=header)]
    problem, unseen, lost = None, False, False
    try:
        for layer in walk(layers[0], reach=reach, opened=_described):
            layers.append(layer)  # noqa: PERF402  (those before an error are kept)
    except ImageError as error:
        if isinstance(error.__cause__, OSError):
            refuse_failure(error.__cause__, path=error.path, action="open it")
        problem, unseen = error.reason, isinstance(error, OutOfReach)
        lost = error.__cause__ is not None or unseen
    found = tuple(one.backing_file for one in layers if one.backing_file)
    if problem is None:
        return found
    named = _named_by(layers[-1])
    assert named is not None
    lost = lost or backing_name.has_protocol(named.name)
    last = BackingFile(
        path=named.path,
        format=named.format,
        problem=problem,
        unseen=unseen,
        unread=not lost and named.format not in tuple(DiskFormat),
    )
    return (*found, last)


def _described(path: Path, format: DiskFormat, reach: Reach) -> _Described:
    """Return the image; read it again only after a change.

    :raises ImageError: when it can't be opened, or is malformed.
    """
    try:
        status = os.stat(path)
    except OSError:
        return _read.__wrapped__(path, format, (), reach)  # which says why it can't
    return _read(path, format, (*inode(status), *marks(status)), reach)


# Thousands of disks share a few base images.
@functools.lru_cache(maxsize=256)
def _read(
    path: Path, format: DiskFormat, state: tuple[int, ...], reach: Reach
) -> _Described:
    with reach.opened(path) as image:
        fd = image.fd
        header = None
        size = -(-os.fstat(fd).st_size // 512) * 512  # raw, rounded as QEMU does
        if format is DiskFormat.QCOW2:
            header = read_header(fd, path=path)
            size = header.virtual_size
        return _Described(
            path=image.path,
            inode=inode(os.fstat(fd)),
            header=header,
            writers=writers.of(fd),
            backing_file=BackingFile(
                path=path,
                format=format,
                virtual_size=size,
                direct_io=direct_io.alignment(fd) is not None,
            ),
        )
