"""``allocpolicy help``, and what a command's first word alone shows: its commands."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from typing import Protocol, TextIO

from allocpolicy import wording
from allocpolicy.cli.command_names import CommandNames
from allocpolicy.cli.paging import show_help
from allocpolicy.cli.parsers import Parser
from allocpolicy.cli.running import Command
from allocpolicy.cli.streams.failure import USAGE, tell, unwritten, usage_error
from allocpolicy.errors import Error
from allocpolicy.wording import one_line

_WIDTH = 80
_NOTHING = "-"  # is said of a command under python -OO, which drops its docstring


class App(Protocol):
    """What it shows: the program's options, and its commands."""

    NAME: str
    command_manager: CommandNames
    parser: argparse.ArgumentParser
    stdout: TextIO


class Help(Command):
    """Print the help of a command, or which commands there are."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser without the options that all other commands have."""
        parser = Parser(
            prog=prog_name, description=self.get_description(), conflict_handler="error"
        )
        parser.add_argument("cmd", nargs="*", help="the words of the command")
        parser.error = usage_error(prog_name)  # type: ignore[method-assign, assignment]
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print it, also where a command is a plugin's that can't be used."""
        try:
            return self.take_action(parsed_args)
        except Error as error:
            tell(self.named, str(error))
            return error.exit_status
        except BrokenPipeError:
            raise
        except OSError as error:
            return unwritten(self.named, error)

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print it; return the exit status."""
        words = parsed_args.cmd
        if not words:
            overview(self.app)
            return 0
        try:
            found, name, _ = self.app.command_manager.find_command(words)
        except ValueError:
            return answer(words, app=self.app)
        command = found(self.app, self.app_args, cmd_name=name)
        parser = command.get_parser(f"{self.app.NAME} {name}")
        return show_help(parser, stream=self.app.stdout)


def overview(app: App) -> None:
    """Print the options before the command, and all commands; 80 columns suffice."""
    app.parser.formatter_class = argparse.HelpFormatter  # as wide as the terminal
    app.parser.print_help(app.stdout)
    app.stdout.write("\nCommands:\n")
    names = sorted(name for name, _ in app.command_manager)
    app.stdout.writelines(f"{line}\n" for line in _described(names, app=app))


def answer(arguments: Sequence[str], *, app: App) -> int:
    """List the commands that begin with the words, or tell that there are none.

    :param arguments: the words, and perhaps options after them.
    :return: the exit status.
    """
    words = _words(arguments)
    members = [
        name
        for name, _ in sorted(app.command_manager)
        if words and name.split()[: len(words)] == words
    ]
    if members:
        app.stdout.writelines(f"{line}\n" for line in _listing(words, members, app=app))
        return 0
    name = " ".join(arguments[:2])
    known = [one for one, _ in app.command_manager]
    hint = wording.hint(known, nearest_to=name)
    hint = hint or wording.hint(known, nearest_to=arguments[0])
    tell(app.NAME, f"there is no command {name!r}{hint}; see {app.NAME} help")
    return USAGE


def _words(arguments: Sequence[str]) -> list[str]:
    for count, one in enumerate(arguments):
        if one.startswith("-"):
            return list(arguments[:count])
    return list(arguments)


def _listing(
    words: Sequence[str], members: Sequence[str], *, app: App
) -> Iterator[str]:
    """Yield how to use them, and which there are."""
    program = f"{app.NAME} {' '.join(words)}"
    yield f"usage: {program} COMMAND ...; {app.NAME} help COMMAND tells more"
    yield ""
    yield from _described(members, app=app)


def _described(members: Sequence[str], *, app: App) -> Iterator[str]:
    """Yield a line for each command, or several, with what it is for."""
    margin = max(map(len, members)) + 4
    for name in members:
        yield from textwrap.wrap(
            _summary(name, app=app) or _NOTHING,
            width=_WIDTH,
            initial_indent=f"  {name:<{margin - 2}}",
            subsequent_indent=" " * margin,
        )


def _summary(name: str, *, app: App) -> str:
    """Return the first line of what a command says it is for."""
    try:
        command = dict(app.command_manager)[name].load()
    except Error as error:  # of a plugin
        return one_line(str(error))
    text = one_line((command.__doc__ or "").strip().partition("\n")[0])
    owner = getattr(command, "owner", None)
    return f"{text} ({owner.split()[0]})" if owner else text
