"""The commands of allocpolicy and their arguments, as their own parsers have them.

Man pages and completions are written from these records, so that neither can tell of an
option that isn't there. It reads the allocpolicy that is imported: what is built, not
what lies beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

from allocpolicy.cli.main import COMMANDS, Program

PROGRAM = "allocpolicy"
_BUILT_IN = ("complete", "help")
# How arguments call a path that the parser takes as a string.
_PATHS = frozenset({"DEST", "DISK", "FILE", "IMAGE", "PATH"})
_DIRECTORY = "DIR"
# What takes the names of columns: -c and --sort-column.
_OF_COLUMNS = frozenset({"columns", "sort_columns"})
# What the strategies are that every installation has.
_STRATEGIES = ("none", "performance", "space")


class Kind(Enum):
    """What an argument takes."""

    NOTHING = "nothing"  #: an option that is a switch
    WORDS = "words"  #: one of its `Argument.words`
    FILE = "file"  #: a path
    DIRECTORY = "directory"  #: the path of a directory
    TEXT = "text"  #: anything else


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An option, or an argument without a name."""

    options: tuple[str, ...]  # none: it is known by its place
    metavar: str  # what it is called where it is shown
    kind: Kind
    words: tuple[str, ...]  # what it takes, if that is known
    nargs: str  # "": one; otherwise argparse's ?, * or +
    repeats: bool  # an option that may be repeated
    help: str  # in one line; may be empty


@dataclass(frozen=True, kw_only=True)
class Group:
    """Options under a heading."""

    title: str
    options: tuple[Argument, ...]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, or what comes before one: then its name is empty."""

    name: str  # its words
    description: str  # paragraphs
    groups: tuple[Group, ...]
    places: tuple[Argument, ...]  # those without a name, in order

    @property
    def summary(self) -> str:
        """What it does, in one sentence without its full stop."""
        first = " ".join(self.description.split("\n\n")[0].split())
        return first.removesuffix(".")

    @cached_property
    def options(self) -> tuple[Argument, ...]:
        """All options."""
        return tuple(one for group in self.groups for one in group.options)


def commands() -> tuple[Command, ...]:
    """Return what is before a command, and then all commands by name."""
    program = Program()
    found = [_command("", program.parser)]
    for name in sorted((*COMMANDS, *_BUILT_IN)):
        factory, _, _ = program.command_manager.find_command(name.split())
        made = factory(program, None, name)
        parser = made.get_parser(f"{PROGRAM} {name}")
        found.append(_command(name, parser, columns=_columns(made)))
    return tuple(found)


def _columns(command: object) -> tuple[str, ...]:
    """Return the names of the columns and the fields that a command shows."""
    shown = getattr(command, "_columns", ())
    fields = getattr(command, "_fields", ())
    return tuple(dict.fromkeys([*(one.name for one in shown), *fields]))


def _command(
    name: str, parser: argparse.ArgumentParser, *, columns: tuple[str, ...] = ()
) -> Command:
    # There is no public way to them; cliff.sphinxext reads them so as well.
    groups = [
        Group(
            title=(one.title or "").rstrip(":"),
            options=tuple(_shown(parser, one, columns=columns)),
        )
        for one in parser._action_groups  # noqa: SLF001
    ]
    actions = parser._actions  # noqa: SLF001
    places = [one for one in actions if not one.option_strings]
    return Command(
        name=name,
        description=parser.description or "",
        groups=tuple(one for one in groups if one.options),
        places=tuple(_argument(parser, one) for one in places),
    )


def _shown(
    parser: argparse.ArgumentParser,
    group: argparse._ArgumentGroup,
    *,
    columns: tuple[str, ...],
) -> Iterator[Argument]:
    for one in group._group_actions:  # noqa: SLF001
        if one.option_strings and one.help != argparse.SUPPRESS:
            known = columns if one.dest in _OF_COLUMNS else ()
            yield _argument(parser, one, known=known)


def _argument(
    parser: argparse.ArgumentParser,
    action: argparse.Action,
    *,
    known: tuple[str, ...] = (),
) -> Argument:
    """Return an argument; ``known`` is what it takes, if its parser doesn't say it."""
    choices = tuple(map(str, action.choices or ()))
    metavar = action.metavar or f"{{{','.join(choices)}}}"
    if not action.metavar and not choices:
        metavar = action.dest.upper()
    words = choices or known
    if not words and _is_strategy(action):
        words = _STRATEGIES
    nargs = action.nargs if isinstance(action.nargs, str) else ""
    return Argument(
        options=tuple(action.option_strings),
        metavar=str(metavar),
        kind=_kind(action, words=words),
        words=words,
        nargs=nargs if nargs in ("?", "*", "+") else "",
        repeats=isinstance(action, argparse._AppendAction),  # noqa: SLF001
        help=_help(parser, action),
    )


def _kind(action: argparse.Action, *, words: Sequence[str]) -> Kind:
    if action.nargs == 0:
        return Kind.NOTHING
    if words:
        return Kind.WORDS
    if action.metavar == _DIRECTORY:
        return Kind.DIRECTORY
    if action.type is Path or action.metavar in _PATHS:
        return Kind.FILE
    return Kind.TEXT


def _is_strategy(action: argparse.Action) -> bool:
    return "--strategy" in action.option_strings or action.dest == "strategy"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an argument's help with what it refers to filled in."""
    if not action.help:
        return ""
    formatter = parser._get_formatter()  # noqa: SLF001
    return " ".join(formatter._expand_help(action).split())  # noqa: SLF001
