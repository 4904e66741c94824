"""What the header and the tables of a qcow2 image say, all of it read and checked.

A survey holds numbers and names, and no table: it is small whatever the image's size.
It is a function of the file's content and length alone.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from allocpolicy.qcow2 import refcounts
from allocpolicy.qcow2.consistency import Checked, checked
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.refcounts import Count
from allocpolicy.qcow2.snapshots import snapshots
from allocpolicy.record import dataclass

_NAMED = 8  # of an image's internal snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A qcow2 whose tables are consistent, as an observation needs it.

    ``snapshots`` are the names of the first internal snapshots.
    """

    header: Header
    mapped: Mapped
    counted: Count
    snapshots: tuple[str, ...] = ()


def of(fd: int, *, path: Path, known: Checked | None = None) -> Survey:
    """Return what an open qcow2 says; all of its tables are read.

    :param known: its checked tables, if they have just been read.
    :raises ImageError: when its header or its tables are malformed.
    """
    known = known or checked(fd, path=path)
    size = os.fstat(fd).st_size
    counted = refcounts.count(fd, known, path=path, file_size=size)
    found = itertools.islice(snapshots(fd, known.header, path=path), _NAMED)
    return Survey(
        header=known.header,
        mapped=known.mapped,
        counted=counted,
        snapshots=tuple(one.name for one in found),
    )
