"""The program ``allocpolicy``: its commands, its global options, its exit status."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import locale  # gettext, which argparse has, imports it as well
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from allocpolicy.cli import before_command
from allocpolicy.cli.command_names import CommandNames, Known, Own
from allocpolicy.cli.screens import characters
from allocpolicy.cli.streams.failure import (
    PIPE_BROKEN,
    PROGRAM,
    interrupted,
    tell,
    usage_error,
)
from allocpolicy.errors import Error

if TYPE_CHECKING:
    from allocpolicy.cli.plugin_commands import PluginCommands
    from allocpolicy.cli.running import Command

# Each is imported only when it runs: the others don't pay for its imports.
COMMANDS = {
    "apply": "allocpolicy.cli.apply:Apply",
    "audit": "allocpolicy.cli.audit:Audit",
    "bench": "allocpolicy.cli.bench:Bench",
    "cache list": "allocpolicy.cli.cache:CacheList",
    "cache prepare": "allocpolicy.cli.cache_prepare:CachePrepare",
    "cache prune": "allocpolicy.cli.cache:CachePrune",
    "ensure": "allocpolicy.cli.ensure:Ensure",
    "explain": "allocpolicy.cli.explain:Explain",
    "flavor validate": "allocpolicy.cli.flavor:FlavorValidate",
    "host capacity": "allocpolicy.cli.host_capacity:HostCapacity",
    "host probe": "allocpolicy.cli.host_probe:HostProbe",
    "inspect": "allocpolicy.cli.inspect:Inspect",
    "libvirt apply": "allocpolicy.cli.libvirt_apply:LibvirtApply",
    "libvirt check": "allocpolicy.cli.libvirt_check:LibvirtCheck",
    "libvirt install-hook": "allocpolicy.cli.libvirt_hook:InstallHook",
    "libvirt set": "allocpolicy.cli.libvirt_domain:LibvirtSet",
    "libvirt show": "allocpolicy.cli.libvirt_domain:LibvirtShow",
    "libvirt status": "allocpolicy.cli.libvirt_hook:Status",
    "libvirt uninstall-hook": "allocpolicy.cli.libvirt_hook:UninstallHook",
    "libvirt unset": "allocpolicy.cli.libvirt_domain:LibvirtUnset",
    "nova provider-config": "allocpolicy.cli.nova:NovaProviderConfig",
    "provision": "allocpolicy.cli.provision:Provision",
    "resize": "allocpolicy.cli.resize:Resize",
    "stamp all": "allocpolicy.cli.stamp_all:StampAll",
    "stamp remove": "allocpolicy.cli.stamp:StampRemove",
    "stamp set": "allocpolicy.cli.stamp:StampSet",
    "stamp show": "allocpolicy.cli.stamp:StampShow",
    "strategy check": "allocpolicy.cli.strategy_check:StrategyCheck",
    "strategy list": "allocpolicy.cli.strategy:StrategyList",
    "strategy new": "allocpolicy.cli.strategy_new:StrategyNew",
    "strategy show": "allocpolicy.cli.strategy:StrategyShow",
}


# Every program of cliff's has them; ours serve groups of commands, and plugins.
_OF_ALL = {
    "complete": "allocpolicy.cli.complete:Complete",
    "help": "allocpolicy.cli.help:Help",
}


class Commands(CommandNames):
    """Knows our commands without searching every installed distribution.

    Those of plugins are searched for when a command is none of ours, or for the list of
    all.
    """

    def __init__(self, targets: Mapping[str, str] = COMMANDS) -> None:
        super().__init__({name: Own(target=one) for name, one in targets.items()})

    @functools.cached_property
    def plugins(self) -> PluginCommands:
        """The commands of other distributions."""
        from allocpolicy.cli.plugin_commands import PluginCommands

        return PluginCommands(own=tuple(self.commands))

    def find_command(self, argv: Sequence[str]) -> tuple[type[Command], str, list[str]]:
        """Return the command, its name and its arguments.

        :raises ValueError: when there is none.
        :raises Error: when it is a plugin's that can't be used.
        """
        try:
            return super().find_command(argv)
        except ValueError:
            return self.plugins.find_command(argv)

    def __iter__(self) -> Iterator[tuple[str, Known]]:
        yield from self.commands.items()
        yield from self.plugins.listed(own=self.commands)


class Program:
    """The program, as its commands know it: its options, its streams, its commands."""

    NAME = PROGRAM  # as cliff's commands look for it, whose `complete` is
    interactive_mode = False  # and this
    options: argparse.Namespace  #: those before the command

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.given = tuple(given)  #: the command line
        self.command_manager: CommandNames = Commands(COMMANDS | _OF_ALL)
        self.parser = before_command.parser()
        self.stdout = sys.stdout

    def run(self, argv: Sequence[str]) -> int:
        """Run a command; return its exit status."""
        try:
            self.options, words = self.parser.parse_known_args(argv)
            if self.options.help:
                if not words:
                    return self._overview()
                words.insert(0, "help")
            with before_command.logged(self.options) as unlogged:
                return self._run_command(words or ["help"], unlogged=unlogged)
        except BrokenPipeError:
            return PIPE_BROKEN
        except KeyboardInterrupt:
            return interrupted()

    def _run_command(self, argv: Sequence[str], *, unlogged: str) -> int:
        """Run a command, or report in one line that it does not exist."""
        try:
            command, name, rest = self.command_manager.find_command(argv)
        except Error as error:
            return _failed(error)
        except ValueError:
            return self._answer(argv)
        named = f"{PROGRAM} {name}"
        if unlogged:
            usage_error(named)(unlogged)
        try:
            made = command(self, self.options, cmd_name=name)
            return made.run(made.get_parser(named).parse_args(rest))
        except Error as error:
            return _failed(error)

    def _overview(self) -> int:
        """Show the help of the whole program, for --help alone."""
        from allocpolicy.cli.help import overview

        overview(self)
        return 0

    def _answer(self, words: Sequence[str]) -> int:
        """List the commands that begin so, or tell that there are none."""
        from allocpolicy.cli.help import answer

        return answer(words, app=self)


def _failed(error: Error) -> int:
    """Tell that a plugin's command can't be used; return the exit status."""
    tell(PROGRAM, str(error))
    return error.exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with contextlib.suppress(locale.Error):  # the user's may not be installed
        locale.setlocale(locale.LC_ALL, "")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path that is not UTF-8 must not break the report of a finished disk.
            stream.reconfigure(errors="backslashreplace")
    if characters.is_ascii() and isinstance(sys.stderr, io.TextIOWrapper):
        # It is for people alone.
        sys.stderr.reconfigure(encoding="ascii", errors="backslashreplace")
    return Program(given).run(given)
