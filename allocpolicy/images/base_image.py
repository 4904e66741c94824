"""Opening the base image once, and refusing what is unsafe before QEMU sees it.

The format is declared, or found by the inspector of oslo.utils; either way it is
checked against the content. What the inspector does not check (encryption, internal
snapshots, absurd sizes, malformed tables) our own qcow2 reader does.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import importlib.util
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import image_file
from allocpolicy.qcow2 import content, geometry
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.content import Kind, Run
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.obstacles import check_base
from allocpolicy.storage import qemu_lock, sparse

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

# QEMU's name of a format -> the inspector's.
INSPECTORS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vpc": "vhd",
    "vhdx": "vhdx",
}
FORMATS = tuple(INSPECTORS)
# What the inspector may find in a disk whose bytes are the guest's own.
_RAW_CONTENT = frozenset({"raw", "gpt", "iso"})
_CHUNK = 1 << 20
_VPC_COOKIE, _VPC_FOOTER_SIZE = b"conectix", 512
BACKING_NAME_LIMIT = 1023  # the qcow2 specification's


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """The file that the user named, open and checked, in whatever format it is."""

    path: Path
    fd: int
    format: str
    virtual_size: int
    data_bytes: int
    plain: bool
    identity: tuple[int, ...]


@contextlib.contextmanager
def open_source(path: Path, *, declared: str | None) -> Iterator[SourceImage]:
    """Open an image, find and check its format, and refuse it unless it is safe.

    :param declared: one of `FORMATS`, or None to let the inspector find it.
    :raises ImageError: when it is missing, unsafe, malformed, busy or something else
        than declared.
    """
    with image_file.opened(path) as (resolved, fd):
        yield _check(fd, path=resolved, declared=declared)


def as_base(source: SourceImage) -> BaseImage:
    """Return a raw or qcow2 source as the base image that it is."""
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
    )


def refuse_long_path(path: Path, *, what: str, remedy: str) -> None:
    """Check that an overlay can name the path as its backing file.

    :raises ImageError: saying what is too long, and what to do about it.
    """
    if len(os.fsencode(path)) > BACKING_NAME_LIMIT:
        reason = f"{what} is longer than {BACKING_NAME_LIMIT} bytes; {remedy}"
        raise ImageError(path, reason)


def identity(fd: int) -> tuple[int, ...]:
    """Return what changes when somebody writes to the file (statx)."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def runs(image: BaseImage, *, virtual_size: int) -> Iterator[Run]:
    """Yield what an image maps of the first ``virtual_size`` bytes, itself alone.

    For raw that is all of it, its holes included; of a disk that is to be rewritten
    (its lease is held) the data alone. Where an image above others maps clusters that
    its file has no data for, they hide what is below: such runs are ZERO.

    :raises ImageError: when a table is malformed or cut short.
    """
    file_size = os.fstat(image.fd).st_size
    written = sparse.data(image.fd) if image.below else None
    for run in _all_runs(image, file_size=file_size):
        length = min(run.length, virtual_size - run.offset)
        if run.kind is Kind.DATA and written is None:
            # The file may end inside its last cluster.
            length = min(length, file_size - run.host_offset)
        if length <= 0:
            continue
        whole = run if length == run.length else run._replace(length=length)
        if run.kind is Kind.DATA and written is not None:
            yield from _parts(whole, written=written)
        else:
            yield whole


def _parts(run: Run, *, written: list[tuple[int, int]]) -> Iterator[Run]:
    """Yield a run of data in parts: DATA where the file was written, ZERO elsewhere."""
    place, end = run.host_offset, run.host_offset + run.length
    shift = run.offset - run.host_offset

    def part(kind: Kind, until: int) -> Run:
        host = (place, until - place) if kind is Kind.DATA else (0, 0)
        return Run(place + shift, until - place, kind, *host)

    first = max(0, bisect.bisect_right(written, place, key=lambda one: one[0]) - 1)
    for offset, length in itertools.islice(written, first, None):
        if offset >= end:
            break
        if place < offset:
            yield part(Kind.ZERO, offset)
            place = offset
        if place < (until := min(offset + length, end)):
            yield part(Kind.DATA, until)
            place = until
    if place < end:
        yield part(Kind.ZERO, end)


def _all_runs(image: BaseImage, *, file_size: int) -> Iterator[Run]:
    if image.format is DiskFormat.QCOW2:
        header = read_header(image.fd, path=image.path)
        yield from content.runs(image.fd, header, path=image.path)
        return
    extents = sparse.data(image.fd) if image.leased else [(0, file_size)]
    for offset, length in extents:
        yield Run(
            offset=offset,
            length=length,
            kind=Kind.DATA,
            host_offset=offset,
            host_length=length,
        )


def inflater(image: BaseImage) -> Callable[[Run], bytes]:
    """Return what gives the guest's bytes of a compressed run of a qcow2 image.

    It raises ImageError when the data is cut short or malformed.
    """
    header = read_header(image.fd, path=image.path)
    return functools.partial(content.inflate, image.fd, header, path=image.path)


def refuse_if_changed(image: SourceImage | BaseImage) -> None:
    """Check that nobody wrote to the image or replaced it since it was opened.

    :raises ImageError: when it changed, its path leads elsewhere now (an overlay would
        name what nobody checked), or somebody has it open for writing.
    """
    if identity(image.fd) != image.identity:
        raise ImageError(image.path, "it changed while it was read; try again")
    try:
        named = os.stat(image.path)
    except OSError as error:
        reason = f"it went away while it was read: {error.strerror}"
        raise ImageError(image.path, reason) from error
    if not os.path.samestat(named, os.fstat(image.fd)):
        raise ImageError(image.path, "it was replaced while it was read; try again")
    refuse_if_busy(image.fd, image.path)


def _check(fd: int, *, path: Path, declared: str | None) -> SourceImage:
    refuse_if_busy(fd, path)
    opened = identity(fd)
    inspector = _inspect(fd, path)
    found = "raw" if inspector is None else str(inspector)
    format = _agreed_format(path, declared=declared, found=found, fd=fd)
    plain = format in ("raw", "qcow2")
    if format == "raw":
        virtual_size, data_bytes = _measure_raw(fd)
    elif format == "qcow2":
        virtual_size, data_bytes, plain = _check_qcow2(fd, path)
    else:
        virtual_size = _check_foreign(inspector, fd, path)
        from allocpolicy.foreign import alone

        alone.check_alone(fd, format=format, path=path)
        data_bytes = virtual_size
    if not virtual_size:
        raise ImageError(path, "it is empty")
    if virtual_size > geometry.MAX_VIRTUAL_SIZE:
        raise ImageError(path, f"a virtual size of {virtual_size} bytes is absurd")
    return SourceImage(
        path=path,
        fd=fd,
        format=format,
        virtual_size=virtual_size,
        data_bytes=data_bytes,
        plain=plain,
        identity=opened,
    )


def refuse_if_busy(fd: int, path: Path) -> None:
    """Check that no QEMU process writes to the open image.

    :raises ImageError: when one has it open for writing.
    """
    if qemu_lock.held_for_writing(fd):
        raise ImageError(path, "a QEMU process has it open for writing; stop it first")


def _inspect(fd: int, path: Path) -> FileInspector | None:
    """Return the inspector that matches the content; None for a guest's own bytes."""
    format_inspector = _format_inspector()
    with io.FileIO(os.dup(fd)) as stream:
        stream.seek(0)
        wrapper = format_inspector.InspectWrapper(stream)
        while wrapper.read(_CHUNK):
            if wrapper.formats:
                break
        wrapper.close()
        matches: list[FileInspector] = wrapper.formats or []
    names = {str(match) for match in matches}
    if names <= _RAW_CONTENT:
        return None
    if len(matches) > 1:
        several = ", ".join(sorted(names))
        raise ImageError(path, f"its content matches several formats: {several}")
    return matches[0]


def _format_inspector() -> ModuleType:
    """Import oslo.utils' inspector, and not what stands beside it.

    Its package imports a parser of qemu-img's output, too, whose regular expressions
    take 40 ms to compile: five times the inspector itself.
    """
    package = "oslo_utils.imageutils"
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec:
        sys.modules[package] = importlib.util.module_from_spec(spec)  # but not run
    try:
        from oslo_utils.imageutils import format_inspector
    finally:
        if spec:
            del sys.modules[package]
    return format_inspector


def _agreed_format(path: Path, *, declared: str | None, found: str, fd: int) -> str:
    qemu_name = {theirs: ours for ours, theirs in INSPECTORS.items()}
    if declared is not None:
        if declared not in INSPECTORS:
            choices = ", ".join(FORMATS)
            raise ImageError(path, f"unknown base format {declared!r}: use {choices}")
        if declared == "vpc" and found == "raw" and _is_fixed_vpc(fd):
            return declared
        if INSPECTORS[declared] != found:
            content = qemu_name.get(found, found)
            reason = f"declared as {declared}, but its content is {content}"
            raise ImageError(path, reason)
        return declared
    if found == "raw" and _is_fixed_vpc(fd):
        reason = "it may be raw or a fixed vpc: its last sector is a vpc footer"
        raise ImageError(path, f"{reason}; say which with --base-format raw or vpc")
    if found not in qemu_name:
        choices = ", ".join(FORMATS)
        raise ImageError(path, f"its format {found} is not supported: use {choices}")
    return qemu_name[found]


def _is_fixed_vpc(fd: int) -> bool:
    """Return whether the file ends in a VHD footer (a fixed VHD starts with data)."""
    footer = max(0, os.fstat(fd).st_size - _VPC_FOOTER_SIZE)
    return os.pread(fd, len(_VPC_COOKIE), footer) == _VPC_COOKIE


def _measure_raw(fd: int) -> tuple[int, int]:
    """Return the virtual size, rounded up to a sector as QEMU does, and data bytes."""
    size = os.fstat(fd).st_size
    return -(-size // 512) * 512, sparse.data_bytes(fd)


def _check_qcow2(fd: int, path: Path) -> tuple[int, int, bool]:
    header = read_header(fd, path=path)
    check_base(header, path=path)
    return header.virtual_size, *measure_qcow2(fd, header, path=path)


def measure_qcow2(fd: int, header: Header, *, path: Path) -> tuple[int, bool]:
    """Check the tables; return the most data bytes of its own, and whether it is plain.

    Plain: data lies in the file as the guest reads it, whole clusters of it.

    :raises ImageError: when a table or an entry is malformed.
    """
    mapped = check_tables(fd, header, path=path)
    return mapped.data_bytes, mapped.plain


def _check_foreign(inspector: FileInspector | None, fd: int, path: Path) -> int:
    if inspector is None:  # a fixed VHD: data, then a footer of one sector
        return os.fstat(fd).st_size - _VPC_FOOTER_SIZE
    try:
        inspector.safety_check()
        virtual_size = inspector.virtual_size
    except _format_inspector().SafetyCheckFailed as error:
        failed = ", ".join(f"{name}: {why}" for name, why in error.failures.items())
        raise ImageError(path, f"it is not safe: {failed}") from error
    except Exception as error:  # the inspector's parsers raise whatever struct does
        raise ImageError(path, f"it is malformed: {error}") from error
    return virtual_size
