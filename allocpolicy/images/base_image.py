"""Opening the base image once, and refusing unsafe ones before QEMU sees them.

Our own qcow2 reader checks what the inspector of oslo.utils does not: encryption,
internal snapshots, absurd sizes, malformed tables.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import (
    identity,
    image_file,
    inspector,
    known_content,
    vmdk_files,
)
from allocpolicy.images.image_file import ImageFile
from allocpolicy.images.vmdk_files import Files
from allocpolicy.qcow2 import bitmaps, cut_short, geometry
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.header import MAX_BACKING_NAME, Header, read_header
from allocpolicy.qcow2.obstacles import check_base
from allocpolicy.record import dataclass, field, replace
from allocpolicy.storage import read_lease, sparse, unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """The file that the user named, open and checked, in any supported format.

    Of a packed image (``format`` is one of `inspector.PACKED`) no size is known, and
    ``declared`` is what was said of the image in it. ``files`` are those that a vmdk
    descriptor names.
    """

    file: ImageFile
    format: str
    virtual_size: int
    data_bytes: int
    plain: bool
    identity: tuple[int, ...]
    declared: str | None = None
    files: Files | None = None
    header: Header | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Return its path, without symbolic links."""
        return self.file.path

    @property
    def is_packed(self) -> bool:
        """Return whether the image is compressed as a whole, or in an archive."""
        return self.format in inspector.PACKED

    @property
    def kind(self) -> str:
        """Return the format, with that of the image in it if one was declared."""
        return f"{self.format}-{self.declared}" if self.declared else self.format

    @property
    def fd(self) -> int:
        """Return its descriptor."""
        return self.file.fd


@contextlib.contextmanager
def open_source(path: Path, *, declared: str | None) -> Iterator[SourceImage]:
    """Open an image, determine and check its format, and refuse it if it is unsafe.

    :param declared: one of `inspector.FORMATS`, or None to let the inspector decide.
    :raises ImageError: when it is missing, unsafe, malformed, busy or not of the
        declared format.
    """
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(image_file.opened(path))
        identity.hold(image.fd, path=image.path)
        source = checked(image, declared=declared)
        if source.format == inspector.SPLIT:
            files = stack.enter_context(vmdk_files.opened(image))
            source = replace(source, files=files)
        yield source


def as_base(source: SourceImage) -> BaseImage:
    """Return a raw or qcow2 source as a base image."""
    refuse_long_path(source.path, what="its path", remedy="move it")
    return BaseImage(
        path=source.path,
        fd=source.fd,
        format=DiskFormat(source.format),
        virtual_size=source.virtual_size,
        data_bytes=source.data_bytes,
        plain=source.plain,
        identity=source.identity,
        source=source.path,
        source_format=source.format,
        header=source.header,
    )


def refuse_long_path(path: Path, *, what: str, remedy: str) -> None:
    """Check that an overlay can name the path as its backing file.

    :raises ImageError: saying what is too long, and what to do about it.
    """
    if len(os.fsencode(path)) > MAX_BACKING_NAME:
        reason = f"{what} is longer than {MAX_BACKING_NAME} bytes; {remedy}"
        raise ImageError(path, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the image's format tells about its content."""

    virtual_size: int
    data_bytes: int
    plain: bool = True
    header: Header | None = None


# What this process has looked at: many disks are made from few images.
_seen: dict[tuple[tuple[int, unchanged.State], str | None], tuple[str, _Content]] = {}
_MOST_SEEN = 16


def checked(file: ImageFile, *, declared: str | None) -> SourceImage:
    """Return an open image, checked.

    :raises ImageError: when it is unsafe, malformed or not of the declared format.
    """
    fd, path = file.fd, file.path
    opened = identity.of(fd)
    format, content = _looked_at(fd, declared=declared, path=path)
    return SourceImage(
        file=file,
        format=format,
        virtual_size=content.virtual_size,
        data_bytes=content.data_bytes,
        plain=content.plain,
        identity=opened,
        declared=declared if format in inspector.PACKED - {inspector.SPLIT} else None,
        header=content.header,
    )


def _looked_at(fd: int, *, declared: str | None, path: Path) -> tuple[str, _Content]:
    """Return an image's format and content; this process looks once at each state."""
    at = time.time_ns()
    state = _state(fd)
    known = None if state is None else _seen.get((state, declared))
    if known is not None:
        return known
    found = _look(fd, declared=declared, path=path)
    certain = state is not None and unchanged.is_settled(state[1], at=at)
    if certain and found[0] in list(DiskFormat) and _state(fd) == state:
        if len(_seen) == _MOST_SEEN:
            _seen.clear()
        assert state is not None
        _seen[state, declared] = found
    return found


def _state(fd: int) -> tuple[int, unchanged.State] | None:
    """Return what changes with an image's content; None if that isn't certain.

    It is while a read lease keeps writers away.
    """
    if not read_lease.is_held(fd) or not unchanged.is_dated(fd):
        return None
    try:
        return os.fstat(fd).st_dev, unchanged.state(fd)
    except OSError:
        return None


def _look(fd: int, *, declared: str | None, path: Path) -> tuple[str, _Content]:
    found = known_content.found(fd, path=path)
    format = inspector.agreed_format(fd, found, path=path, declared=declared)
    if format in inspector.PACKED:
        content = _Content(virtual_size=0, data_bytes=0, plain=False)
    elif format == "raw":
        content = _raw(fd)
    elif format == "qcow2":
        content = _checked_qcow2(fd, path=path)
    else:
        from allocpolicy.foreign import alone

        size = alone.checked_size(fd, format=format, path=path)
        content = _Content(virtual_size=size, data_bytes=size, plain=False)
    if format not in inspector.PACKED:
        check_size(content.virtual_size, path=path)
    return format, content


def claimed(fd: int, *, declared: str | None, path: Path) -> tuple[str, int]:
    """Return (format, virtual size) of an unpacked image by the headers at its ends.

    Nothing else is checked; if it is packed itself, the size is 0.

    :raises ImageError: when it is unsafe, malformed or not of the declared format.
    """
    found = inspector.inspect(fd, path=path)
    format = inspector.agreed_format(
        fd, found, path=path, declared=declared, unpacked=True
    )
    if format in inspector.PACKED:
        return format, 0
    if format == "raw":
        size = _raw(fd).virtual_size
    elif format == "qcow2":
        header = read_header(fd, path=path)
        check_base(header, path=path)
        size = header.virtual_size
    else:
        from allocpolicy.foreign import alone

        size = alone.checked_size(fd, format=format, path=path)
    check_size(size, path=path)
    return format, size


def check_size(virtual_size: int, *, path: Path) -> None:
    """Check that a disk may have the size.

    :raises ImageError: when it is 0, or absurd.
    """
    if not virtual_size:
        raise ImageError(path, "it is empty")
    if virtual_size > geometry.MAX_VIRTUAL_SIZE:
        raise ImageError(path, f"a virtual size of {virtual_size} bytes is absurd")


def _raw(fd: int) -> _Content:
    """Return the size, rounded up to a sector as QEMU does."""
    sectors = -(-os.fstat(fd).st_size // geometry.SECTOR_SIZE)
    return _Content(
        virtual_size=sectors * geometry.SECTOR_SIZE, data_bytes=sparse.data_bytes(fd)
    )


def _checked_qcow2(fd: int, *, path: Path) -> _Content:
    header = read_header(fd, path=path)
    check_base(header, path=path)
    bitmaps.check(fd, header, path=path)
    mapped = check_tables(fd, header, path=path)
    cut_short.refuse(fd, header, path=path)
    return _Content(
        virtual_size=header.virtual_size,
        data_bytes=mapped.data_bytes,
        plain=mapped.plain,
        header=header,
    )
