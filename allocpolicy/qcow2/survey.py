"""What the header and the tables of a qcow2 image say, all of it read and checked.

A survey holds numbers and names, and no table: it is small whatever the image's size.
It is a function of the file's content and length alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allocpolicy.qcow2 import metadata, obstacles, refcounts
from allocpolicy.qcow2.consistency import Checked, checked
from allocpolicy.qcow2.header import (
    Autoclear,
    BitmapDirectory,
    Compatible,
    EncryptionMethod,
    Header,
    Incompatible,
)
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.metadata import Metadata
from allocpolicy.qcow2.refcounts import Count
from allocpolicy.qcow2.snapshots import snapshots
from allocpolicy.record import asdict, dataclass

_NAMED = 8  # of an image's internal snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A qcow2 whose tables are consistent, as an observation needs it.

    ``snapshots`` are the names of the first internal snapshots, ``hindrances`` what
    prevents a rewrite. ``metadata`` is where all of it is, if that is simple.
    """

    header: Header
    mapped: Mapped
    counted: Count
    snapshots: tuple[str, ...] = ()
    hindrances: tuple[str, ...] = ()
    metadata: Metadata | None = None


def of(fd: int, *, path: Path, known: Checked | None = None) -> Survey:
    """Return what an open qcow2 says; all of its tables are read.

    :param known: its checked tables, if they have just been read.
    :raises ImageError: when its header or its tables are malformed.
    """
    known = known or checked(fd, path=path)
    size = os.fstat(fd).st_size
    counted = refcounts.count(fd, known, path=path, file_size=size)
    found = itertools.islice(snapshots(fd, known.header, path=path), _NAMED)
    names = tuple(one.name for one in found)
    return Survey(
        header=known.header,
        mapped=known.mapped,
        counted=counted,
        snapshots=names,
        hindrances=tuple(obstacles.hindrances(known.header, snapshots=names)),
        metadata=metadata.of(fd, known, path=path),
    )


def encoded(survey: Survey) -> dict[str, object]:
    """Return what `decoded` makes a survey of, as data for JSON."""
    document: dict[str, object] = asdict(survey)
    return document


def decoded(document: Mapping[str, Any]) -> Survey:
    """Return the survey that was `encoded`."""
    header, places = document["header"], document["metadata"]
    directory = header["bitmap_directory"]
    typed = {
        "encryption": EncryptionMethod(header["encryption"]),
        "incompatible": Incompatible(header["incompatible"]),
        "compatible": Compatible(header["compatible"]),
        "autoclear": Autoclear(header["autoclear"]),
        "bitmap_directory": BitmapDirectory(**directory) if directory else None,
    }
    runs = {} if places is None else {name: _runs(places[name]) for name in places}
    return Survey(
        header=Header(**{**header, **typed}),
        mapped=Mapped(**document["mapped"]),
        counted=Count(**document["counted"]),
        snapshots=tuple(document["snapshots"]),
        hindrances=tuple(document["hindrances"]),
        metadata=Metadata(**runs) if runs else None,
    )


def _runs(listed: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in listed)
