"""``allocpolicy help``, and what a command's first word alone shows: its commands."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cliff.help import HelpCommand

from allocpolicy import wording
from allocpolicy.cli.streams.failure import USAGE, tell, unwritten, usage_error
from allocpolicy.errors import Error
from allocpolicy.wording import one_line

if TYPE_CHECKING:
    from cliff.app import App

_WIDTH = 80
_NOTHING = "-"  # is said of a command under python -OO, which drops its docstring


class Help(HelpCommand):
    """Print the help of a command, or which commands there are."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser that reports a mistake in one line."""
        parser = super().get_parser(prog_name)
        parser.error = usage_error(prog_name)  # type: ignore[method-assign, assignment]
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it, also where a command is a plugin's that can't be used."""
        try:
            return super().run(parsed_args)
        except Error as error:
            tell(f"{self.app.NAME} help", str(error))
            return error.exit_status
        except BrokenPipeError:
            raise
        except OSError as error:
            return unwritten(f"{self.app.NAME} help", error)

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print it; return the exit status."""
        words = parsed_args.cmd
        if not words:
            overview(self.app)
            return 0
        try:
            self.app.command_manager.find_command(words)
        except ValueError:
            return answer(words, app=self.app)
        return int(super().take_action(parsed_args) or 0)


def overview(app: App) -> None:
    """Print the options before the command, and all commands; 80 columns suffice."""
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
