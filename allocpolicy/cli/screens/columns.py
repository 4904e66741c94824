"""The columns of a command: what each shows to people, and of which field.

``-c`` and ``--sort-column`` take the columns that are shown and the names of the
fields, in any case and in every format. A misspelt one is told before any work is done.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path

from allocpolicy import wording
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass, replace

Data = Mapping[str, object]  #: what there is to show of one thing, by its fields

#: what stands for nothing where people read
NOTHING = "-"

# Fields that are bytes and aren't called so.
_SIZES = {
    *("size", "free", "used", "reserved_blocks", "unwritten", "written", "hole"),
    *("allocated", "promised", "shortfall", "reserved_host_disk", "left"),
    *("unmapped", "compressed", "shared_inside", "shared", "encoded", "delalloc"),
}


class Lines(str):
    """Text of several lines; only these begin a new line where people read."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One thing about a row: as data for programs, and as a cell for people."""

    name: str  #: its name as data: snake_case
    heading: str  #: what is above it on the screen
    field: str  #: the field that it is; a dot leads into a record: ``observed.format``
    cell: Callable[[Data], str]  #: how people read it
    right: bool = False  #: it is a number
    wraps: bool = False  #: it is a sentence, which may take several lines

    def value(self, row: Data) -> object:
        """Return it as data; None if the row doesn't have it."""
        record, dot, _ = self.field.partition(".")
        if dot and record not in row:  # what is of another kind has it by itself
            return row.get(self.name)
        return found(row, self.field)


def column(
    name: str,
    *,
    field: str = "",
    heading: str = "",
    cell: Callable[[Data], str] | None = None,
) -> Column:
    """Return a column of words; by default its field's own.

    :param field: the field that it shows, if that has another name.
    :param heading: by default its name in capitals.
    :param cell: makes what people read of the whole row.
    """
    path = field or name
    return Column(
        name=name,
        heading=heading or name.upper().replace("_", " "),
        field=path,
        cell=cell or (lambda row: said(found(row, path))),
    )


def _places(path: Path) -> tuple[str, ...]:
    """Return a path's absolute ones; a removed working directory gives it none."""
    try:
        return (os.path.realpath(path), os.path.abspath(path))
    except FileNotFoundError:
        return ()


def path(name: str, *, named: Sequence[Path]) -> Column:
    """Return a column of paths, as the user names them: that of a row comes last.

    :param named: what the user named; what is in a directory alone has its name in it.
    """
    whole = {place: os.fspath(one) for one in named for place in _places(one)}

    def cell(row: Data) -> str:
        text = said(found(row, name))
        if text in whole:
            return whole[text]
        for directory, word in whole.items():
            if text.startswith(f"{directory}/"):
                inside = os.path.relpath(text, directory)
                return inside if len(named) == 1 else os.path.join(word, inside)
        return text

    return column(name, cell=cell)


def size(name: str, *, field: str = "", heading: str = "") -> Column:
    """Return a column of bytes: exact as data, ``40G`` where people read."""
    made = column(name, field=field, heading=heading)

    def cell(row: Data) -> str:
        return compact(found(row, made.field))

    return replace(made, cell=cell, right=True)


def sentence(
    name: str,
    *,
    field: str = "",
    heading: str = "",
    cell: Callable[[Data], str] | None = None,
) -> Column:
    """Return a column of sentences, which go on in the next line if they are long."""
    made = column(name, field=field, heading=heading, cell=cell)
    return replace(made, wraps=True)


def of_record(field: str, names: Iterable[str]) -> tuple[Column, ...]:
    """Return a column for each name in a record: -c takes it without the record's."""
    return tuple(column(name, field=f"{field}.{name}") for name in names)


def found(row: Data, path: str) -> object:
    """Return the value at the path; None where there is none."""
    value: object = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def said(value: object) -> str:
    """Return a value as people read it."""
    if value is None or (isinstance(value, Sized) and not len(value)):
        return NOTHING
    match value:
        case bool():
            return str(value).lower()
        case Lines():
            return value
        case Mapping():
            return ", ".join(f"{name}={said(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(map(said, value))
    return str(value)


def is_bytes(name: str) -> bool:
    """Return whether a field is a number of bytes, as its name says."""
    return name.endswith(("_size", "_bytes")) or name in _SIZES


def of_field(name: str) -> Column:
    """Return the column that a field is by itself."""
    return size(name) if is_bytes(name) else column(name)


def exact(name: str, value: object) -> str:
    """Return a field's value as people read it, with the bytes of a size."""
    if is_bytes(name) and isinstance(value, int) and not isinstance(value, bool):
        return wording.format_size(value)
    return said(value)


def compact(size: object) -> str:
    """Return a byte count as columns have it: ``28G``, ``1.5M``."""
    if not isinstance(size, int) or isinstance(size, bool):
        return said(size)
    return wording.compact(size)


def chosen(
    arguments: argparse.Namespace, *, fields: Sequence[str], columns: Sequence[Column]
) -> tuple[Column, ...]:
    """Return the columns that -c asks for, in that order.

    :raises InvalidRequest: for the first that -c or --sort-column name and the command
        doesn't have.
    """
    known = _known(fields, columns)
    for option, given in (
        ("-c", arguments.columns),
        ("--sort-column", getattr(arguments, "sort_columns", ())),
    ):
        for name in given:
            if normal(name) not in known:
                allowed = wording.choices(known, nearest_to=normal(name))
                raise InvalidRequest(f"{option} {name!r} is no column; {allowed}")
    asked = dict.fromkeys(map(normal, arguments.columns))
    return tuple(replace(known[name], name=name) for name in asked)


def in_order(
    rows: Sequence[Data],
    arguments: argparse.Namespace,
    *,
    fields: Sequence[str],
    columns: Sequence[Column],
) -> list[Data]:
    """Return the rows as --sort-column wants them; what has no value comes last."""
    known, ordered = _known(fields, columns), list(rows)
    for name in reversed(arguments.sort_columns):
        one = known[normal(name)]
        have = [row for row in ordered if one.value(row) is not None]
        have.sort(
            key=lambda row: _key(one.value(row)),
            reverse=arguments.sort_direction == "desc",
        )
        ordered = have + [row for row in ordered if one.value(row) is None]
    return ordered


def normal(name: str) -> str:
    """Return the name as it is compared, and as data has it."""
    return name.lower().strip().replace(" ", "_")


def _known(fields: Sequence[str], columns: Sequence[Column]) -> dict[str, Column]:
    """Return the columns by what -c takes: names, headings and fields."""
    shown = {one.name: one for one in columns}
    headed = {normal(one.heading): one for one in columns}
    return {normal(name): of_field(name) for name in fields} | headed | shown


def _key(value: object) -> tuple[bool, float, str]:
    if isinstance(value, int | float):
        return False, value, ""
    return True, 0, said(value)
