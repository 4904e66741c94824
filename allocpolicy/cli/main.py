"""The program ``allocpolicy``: its commands, its global options, its exit status."""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cliff.app import App
from cliff.commandmanager import CommandManager

from allocpolicy import __version__
from allocpolicy.cli.options import config_options, plugin_option
from allocpolicy.cli.screens import characters
from allocpolicy.cli.streams import change_log
from allocpolicy.cli.streams.failure import PROGRAM, interrupted, tell, usage_error
from allocpolicy.errors import Error

if TYPE_CHECKING:
    from cliff.command import Command as CliffCommand

    from allocpolicy.cli.plugin_commands import PluginCommands

# Each is imported only when it runs: the others don't pay for its imports.
COMMANDS = {
    "apply": "allocpolicy.cli.apply:Apply",
    "audit": "allocpolicy.cli.audit:Audit",
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


# Cliff has them as well, for programs without plugins or groups of commands.
_OF_CLIFF = {
    "complete": "allocpolicy.cli.plugin_commands:Complete",
    "help": "allocpolicy.cli.help:Help",
}


def _entry_point(name: str, target: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(
        name=name, value=target, group="allocpolicy.cli"
    )


class Commands(CommandManager):
    """Knows our commands without searching every installed distribution.

    Those of plugins are searched for when a command is none of ours, or for the list of
    all.
    """

    def __init__(self) -> None:
        super().__init__(None)
        for name, target in COMMANDS.items():
            self.commands[name] = _entry_point(name, target)

    @functools.cached_property
    def plugins(self) -> PluginCommands:
        """The commands of other distributions."""
        from allocpolicy.cli.plugin_commands import PluginCommands

        return PluginCommands(own=tuple(self.commands))

    def find_command(
        self, argv: list[str]
    ) -> tuple[type[CliffCommand], str, list[str]]:
        """Return the command, its name and its arguments.

        :raises ValueError: when there is none.
        :raises Error: when it is a plugin's that can't be used.
        """
        try:
            command, name, rest = super().find_command(argv)
        except ValueError:
            return self.plugins.find_command(argv)
        return command, self._whole(name), rest

    def _whole(self, name: str) -> str:
        """Return the name of a command that may be abbreviated."""
        words = name.split()
        for one in () if name in self.commands else self.commands:
            parts = one.split()
            if len(parts) == len(words) and all(map(str.startswith, parts, words)):
                return str(one)
        return name

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.commands.items()
        yield from self.plugins.listed(own=self.commands)


class Program(App):
    """The cliff application."""

    NAME = PROGRAM  # cliff's is that of the program that imports it first
    given: Sequence[str] = ()  #: the command line
    _unlogged = ""  #: why there is no log; the command tells it

    def __init__(self) -> None:
        super().__init__(
            description="Decide how a VM disk's storage is allocated, and prove it.",
            version=__version__,
            command_manager=Commands(),
            deferred_help=True,
        )
        for name, target in _OF_CLIFF.items():
            self.command_manager.commands[name] = _entry_point(name, target)

    def build_option_parser(
        self, description: str | None, version: str | None, *args: object
    ) -> argparse.ArgumentParser:
        """Return the parser of the options before the command."""
        parser = super().build_option_parser(description, version)
        parser.prog = self.NAME  # whatever runs it
        for option in parser._actions:  # noqa: SLF001  (cliff declares them)
            if option.dest == "verbose_level" and option.const == 0:
                option.help = (
                    "have nothing but the result, and errors on stderr: no warnings,"
                    " hints, summaries or bars"
                )
        change_log.add_options(parser)
        config_options.add(parser)
        plugin_option.add(parser)
        parser.error = usage_error(PROGRAM)  # type: ignore[method-assign, assignment]
        return parser

    def configure_logging(self) -> None:
        """Log as cliff does; allocpolicy reports each error once, in one line."""
        options, before = self.options, set(logging.getLogger().handlers)
        logging.raiseExceptions = options.debug  # a full disk of a log is no error
        try:
            if options.log_json:
                change_log.write_json(self._json_handler())
                options.log_file = None
            super().configure_logging()
        except OSError as error:
            self._unlogged = f"--log-file {options.log_file}: {error.strerror}"
        if not options.debug:
            verbose = options.verbose_level > self.DEFAULT_VERBOSE_LEVEL
            for handler in set(logging.getLogger().handlers) - before:
                is_file = isinstance(handler, logging.FileHandler)
                change_log.hide_libraries(handler, verbose=verbose or is_file)

    def _json_handler(self) -> logging.Handler:
        if self.options.log_file:
            return logging.FileHandler(self.options.log_file)
        return logging.StreamHandler(self.stderr)

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command, or report in one line that it does not exist."""
        try:
            _, name, _ = self.command_manager.find_command(argv)
        except KeyboardInterrupt:  # cliff would say nothing about it
            return interrupted()
        except Error as error:
            return _failed(error)
        except ValueError:
            return self._answer(argv)
        if self._unlogged:
            usage_error(f"{PROGRAM} {name}")(self._unlogged)
        try:
            return super().run_subcommand(argv)
        except Error as error:
            return _failed(error)

    def print_help_if_requested(self) -> None:
        """Show the help of the whole program for --help alone."""
        if self.options.deferred_help:
            from allocpolicy.cli.help import overview

            overview(self)
            raise SystemExit(0)

    def interact(self) -> None:
        """Show the help: options alone are no command, and there is no shell."""
        raise SystemExit(self.run_subcommand(["help"]))

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path that is not UTF-8 must not break the report of a finished disk.
            stream.reconfigure(errors="backslashreplace")
    if characters.is_ascii() and isinstance(sys.stderr, io.TextIOWrapper):
        # It is for people alone.
        sys.stderr.reconfigure(encoding="ascii", errors="backslashreplace")
    program = Program()
    program.given = tuple(given)
    return program.run(given or ["help"])
