"""The commands that show something, one thing or a list, in every format."""

from __future__ import annotations

import argparse
import itertools
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from allocpolicy.cli.running import Command
from allocpolicy.cli.screens import columns, formats, screen
from allocpolicy.cli.screens.columns import Column, Data, Lines, normal
from allocpolicy.cli.streams import aside, failure, standard_output

Row = tuple[object, ...]  #: the cells of a row, one for each column


class _Shown(Command):
    """A command that shows what it found: its formats, and its columns."""

    #: the names of its data, snake_case; by default those of its columns
    fields: ClassVar[tuple[str, ...]] = ()
    #: what people are shown of it, and what -c takes besides the fields; a word alone
    #: is a column of that field
    columns: ClassVar[tuple[Column | str, ...]] = ()
    _defaults = argparse.Namespace()

    def _add_formats(self, parser: argparse.ArgumentParser) -> None:
        """Add the options, and keep what they are when nothing is given."""
        formats.add_options(parser, is_list=isinstance(self, Lister))
        defaults = {name: parser.get_default(name) for name in formats.OPTIONS}
        self._defaults = argparse.Namespace(**defaults)

    def _chosen(self, arguments: argparse.Namespace) -> tuple[Column, ...]:
        """Return the columns that -c asks for.

        :raises InvalidRequest: when -c, or an option of the output, makes no sense.
        """
        formats.check(arguments, defaults=self._defaults)
        return columns.chosen(arguments, fields=self._fields, columns=self._columns)

    @property
    def _columns(self) -> tuple[Column, ...]:
        return tuple(
            columns.sentence(normal(one), heading=one.upper())
            if isinstance(one, str)
            else one
            for one in self.columns
        )

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self.fields) or tuple(one.name for one in self._columns)

    def _carried_out(self, parsed_args: argparse.Namespace) -> int:
        names, data = self.take_action(parsed_args)
        return self.produce_output(parsed_args, names, data)

    @abstractmethod
    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Print what was found, in the format that is asked for; return 0."""

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.app.stdout.write(f"{screen.safe(line)}\n")


class ShowOne(_Shown):
    """A command that shows one thing.

    `show` does the work and returns all that is known by the names of the fields, as
    data: ``-f json`` prints it as it is, and `--long` all of it for people. `screen`
    makes the lines that people read by default.
    """

    _data: Data = MappingProxyType({})

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Row]:
        """Return the names and the values to print."""
        chosen = self._chosen(parsed_args)
        with standard_output.reserved():
            found = self.show(parsed_args)
        self.is_done = True
        data = self._data = {normal(name): one for name, one in found.items()}
        chosen = chosen or tuple(self._all(data, parsed_args.formatter))
        if parsed_args.formatter == formats.TABLE:
            cells = (columns.exact(one.name, one.value(data)) for one in chosen)
            return tuple(one.name for one in chosen), tuple(cells)
        return (
            tuple(one.name for one in chosen),
            tuple(one.value(data) for one in chosen),
        )

    def _all(self, data: Data, formatter: str) -> Iterator[Column]:
        """Yield what a format has of the data when -c names nothing.

        json and yaml have records; others have what is in them by its own name as well.
        """
        for name, value in data.items():
            inside = [x for x in self._columns if x.field.startswith(f"{name}.")]
            if formatter not in ("json", "yaml") and isinstance(value, Mapping):
                yield from inside
            if formatter != formats.TABLE or not inside or value is None:
                yield columns.of_field(name)

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[Any],
    ) -> int:
        """Print the screen, or the values, made safe for the format."""
        if parsed_args.formatter != formats.SCREEN:
            safe = _safe(data, parsed_args)
            formats.print_one(column_names, safe, self.app.stdout, parsed_args)
            return 0
        width = screen.width(parsed_args.max_width)
        if parsed_args.columns:
            named = dict(zip(column_names, data, strict=True))
            self._print(screen.whole(named, width=width))
        elif parsed_args.long:
            self._print(screen.whole(self._data, width=width))
        else:
            self._print(self.screen(self._data, width=width))
        return 0

    @abstractmethod
    def show(self, arguments: argparse.Namespace) -> Data:
        """Do the work; return what there is to show, by name."""

    def screen(self, shown: Data, *, width: int) -> Iterable[str]:
        """Return the lines that people read, each of at most ``width`` characters.

        By default, all that was found. `allocpolicy.cli.screens.screen` has what they
        are made of: text of others needs no escaping here.
        """
        return screen.whole(shown, width=width)


class Lister(_Shown):
    """A command that lists things.

    `rows` does the work and returns for each thing all that is known of it, by the
    names of the fields. People see the columns, one line a thing.
    """

    #: what all of it comes to: a last line for people, on stderr; -q omits it
    summary = ""
    _data: Sequence[Data] = ()

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[Row]]:
        """Return the columns and the rows to print."""
        chosen = self._chosen(parsed_args)
        with standard_output.reserved():
            data = [self._by_name(row) for row in self.rows(parsed_args)]
        self.is_done = True
        data = columns.in_order(
            data, parsed_args, fields=self._fields, columns=self._columns
        )
        if parsed_args.formatter in formats.FOR_PEOPLE:
            data = list(self.listed(data, parsed_args))
        self._data = data
        if not chosen:
            whole = parsed_args.long or parsed_args.formatter not in formats.FOR_PEOPLE
            fields = tuple(columns.of_field(name) for name in self._fields)
            chosen = fields if whole else self.shown(parsed_args)
        self._in_order = chosen
        rows = [tuple(_cell(x, row, parsed_args) for x in chosen) for row in data]
        return tuple(one.name for one in chosen), rows

    def _by_name(self, row: Data | Row) -> Data:
        if isinstance(row, Mapping):
            return row
        return dict(zip(self._fields, row, strict=True))

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
    ) -> int:
        """Print the screen, or the rows, made safe for the format; and the summary."""
        if parsed_args.formatter == formats.SCREEN:
            self._print(self._screen(parsed_args))
        else:
            safe = [_safe(row, parsed_args) for row in data]
            formats.print_list(column_names, safe, self.app.stdout, parsed_args)
        if self.summary:
            self._sum_up(parsed_args)
        return 0

    def _sum_up(self, arguments: argparse.Namespace) -> None:
        """Print the summary after all else."""
        sys.stdout.flush()
        if arguments.formatter != formats.SCREEN:
            aside.say(self.summary)
        elif not aside.is_quiet():
            wide = screen.width(arguments.max_width) if sys.stderr.isatty() else 0
            wrapped = screen.sentence(self.summary, width=wide) if wide else []
            for line in wrapped or [self.summary]:
                failure.put(screen.safe(line))

    def _screen(self, arguments: argparse.Namespace) -> Iterable[str]:
        width = screen.width(arguments.max_width)
        if not arguments.long:
            return screen.table(self._in_order, self._data, width=width)
        records = (
            {one.name: one.value(row) for one in self._in_order} for row in self._data
        )
        blocks = (screen.whole(record, width=width) for record in records)
        return itertools.chain.from_iterable(
            [*([""] if number else ()), *block] for number, block in enumerate(blocks)
        )

    @abstractmethod
    def rows(self, arguments: argparse.Namespace) -> Iterable[Data | Row]:
        """Do the work; return the data of each thing.

        By the names of the fields, or a value for each field in order.
        """

    def shown(self, arguments: argparse.Namespace) -> tuple[Column, ...]:
        """Return the columns that people are shown; by default all of them."""
        return self._columns

    def listed(
        self, rows: Sequence[Data], arguments: argparse.Namespace
    ) -> Iterable[Data]:
        """Return the rows that people are shown; by default all of them."""
        return rows


def _cell(column: Column, row: Data, arguments: argparse.Namespace) -> object:
    """Return what the format has of a row's column."""
    value = column.value(row)
    if arguments.formatter != formats.TABLE or isinstance(value, Lines):
        return value
    return column.cell(row)


def _safe(row: Sequence[Any], arguments: argparse.Namespace) -> Row:
    from allocpolicy.cli.screens.cells import cell

    return tuple(cell(value, formatter=arguments.formatter) for value in row)
