"""Walking a qcow2's backing chain, by the names and formats that headers record.

There is one walk, whether the images are only described or opened to copy from. It is
read-only and takes no lock.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from allocpolicy.contract.facts import BackingFile, DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import image_file
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.storage.inode import Inode, inode

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


AnyLayer = TypeVar("AnyLayer", bound=Layer)


def walk(
    top: Layer, *, opened: Callable[[Path, DiskFormat], AnyLayer]
) -> Iterator[AnyLayer]:
    """Yield the images below the top image, nearest first.

    :param opened: opens the image at a path, in the format that the image above
        records.
    :raises ImageError: where the chain can't be followed: a backing file isn't a file,
        its recorded format is missing or unsupported, or the chain is a loop; and as
        ``opened`` does.
    """
    seen, above = {top.inode}, top
    while (named := _named_by(above)) is not None:
        layer = opened(named.path, _readable(named))
        if layer.inode in seen or len(seen) > MAX_DEPTH:
            raise ImageError(named.path, "the backing chain is a loop")
        seen.add(layer.inode)
        yield layer
        above = layer


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
    path = layer.path.parent / name
    format = header.backing_format
    return _Named(by=layer.path, name=name, path=path, format=format)


def _readable(named: _Named) -> DiskFormat:
    """Return the recorded format, if the backing file may be opened."""
    if image_file.NETWORK_DISK.match(named.name):
        raise ImageError(named.path, "it is not a file")
    if named.format in tuple(DiskFormat):
        return DiskFormat(named.format)
    image_file.resolve(named.path)  # a missing one needs another remedy
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
    reason = f"its format is not recorded; record it with {shlex.join(command)}"
    raise ImageError(named.path, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """An image that was opened, read and closed again."""

    path: Path
    inode: Inode
    header: Header | None
    backing_file: BackingFile | None = None


def chain(header: Header, *, fd: int, path: Path) -> tuple[BackingFile, ...]:
    """Return the images below an open one, nearest first.

    If the chain can't be followed to its end, the last one says why: it is missing, not
    a file, of unknown format, malformed or part of a loop.
    """
    layers = [_Described(path=path, inode=inode(os.fstat(fd)), header=header)]
    problem = None
    try:
        for layer in walk(layers[0], opened=_described):
            layers.append(layer)  # noqa: PERF402  (those before an error are kept)
    except ImageError as error:
        problem = error.reason
    found = tuple(one.backing_file for one in layers if one.backing_file)
    if problem is None:
        return found
    named = _named_by(layers[-1])
    assert named is not None
    broken = BackingFile(path=named.path, format=named.format, problem=problem)
    return (*found, broken)


def _described(path: Path, format: DiskFormat) -> _Described:
    """Return the image; read it again only after a change.

    :raises ImageError: when it can't be opened, or is malformed.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(path, f"cannot open it: {error.strerror}") from error
    state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return _read(path, format, (*inode(status), *state))


# Thousands of disks share a few base images.
@functools.lru_cache(maxsize=256)
def _read(path: Path, format: DiskFormat, state: tuple[int, ...]) -> _Described:
    with image_file.opened(path) as image:
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
            backing_file=BackingFile(path=path, format=format, virtual_size=size),
        )
