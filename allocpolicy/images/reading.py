"""What a copy reads from an open image: runs of data, and compressed clusters."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Iterator

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.qcow2 import content
from allocpolicy.qcow2.content import Kind, Run
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.storage import sparse
from allocpolicy.wording import printable


def runs(image: BaseImage, *, virtual_size: int) -> Iterator[Run]:
    """Yield what the image itself maps of the first ``virtual_size`` bytes.

    For raw that is everything, including holes, or the data alone if the disk is to be
    rewritten (its lease is held). Clusters that an image maps without data in its file
    hide the images below: such runs are ZERO.

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
    """Split a run of data: DATA where the file was written, ZERO elsewhere."""
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
        yield from content.runs(image.fd, _header(image), path=image.path)
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
    """Return a function that decompresses a run of a qcow2 image.

    It raises ImageError when the data is cut short or malformed.
    """
    return functools.partial(content.inflate, image.fd, _header(image), path=image.path)


def unreadable(image: BaseImage) -> str | None:
    """Return why a copy can't read all that the guest reads of an open image, or None.

    :raises ImageError: when a table is malformed.
    """
    for one in image.layers:
        if one.header and content.is_by_zstd(one.fd, one.header, path=one.path):
            return f"{printable(str(one.path))}: {content.BY_ZSTD}"
    return None


def _header(image: BaseImage) -> Header:
    """Return the header that was read when opening; a plugin's image may have none."""
    return image.header or read_header(image.fd, path=image.path)
