"""What every command is: its options, its one-line errors and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from allocpolicy.cli.options import config_options, plugin_option
from allocpolicy.cli.options.argument_path import path_of
from allocpolicy.cli.parsers import Parser
from allocpolicy.cli.streams import aside, change_log, standard_output
from allocpolicy.cli.streams.failure import (
    INTERRUPTED,
    PROGRAM,
    UNEXPECTED,
    USAGE,
    put,
    tell,
    usage_error,
    why_unwritten,
)
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error
from allocpolicy.log import telling
from allocpolicy.registry import loading
from allocpolicy.storage.signals import Ended, endings_raised
from allocpolicy.wording import one_line, raised

_NOWHERE = "the current directory is gone: change to one that is there"
# What commands are made of; their docstrings are for those who write one.
_NO_COMMANDS = ("abc", "builtins", __name__, "allocpolicy.cli.command")


class Command(ABC):
    """A command whose errors are one line on stderr, with the right exit status.

    It is made of the program, of the options before the command and of its name.
    ``state`` is what holds when the command is interrupted or its output fails;
    ``exit_status`` is the status when it runs to its end. ``owner``: the distribution
    that a plugin's command is from, which is told when it fails.
    """

    state = "nothing was changed"  #: what holds when it is interrupted or fails
    exit_status = 0  #: that of a run to its end
    #: the distribution that a plugin's command is from
    owner: ClassVar[str | None] = None
    #: strategies are loaded by stevedore: it is about them, and may take that time
    takes_stevedore: ClassVar[bool] = False
    is_done = False  #: its work is, and what is left is to print it
    _policy: Policy | None = None

    def __init__(
        self,
        app: Any,
        app_args: argparse.Namespace | None,
        cmd_name: str | None = None,
    ) -> None:
        self.app, self.app_args, self.cmd_name = app, app_args, cmd_name

    def get_description(self) -> str:
        """Return what the command is for: its docstring, without its margin."""
        own = (one for one in type(self).__mro__ if one.__module__ not in _NO_COMMANDS)
        said = next(filter(None, (one.__doc__ for one in own)), "")
        return "\n".join(line.strip() for line in said.strip().splitlines())

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser that reports a mistake in one line."""
        parser = Parser(
            prog=prog_name,
            description=self.get_description(),
            conflict_handler="resolve",  # an option of a command's own replaces ours
        )
        parser.register("type", Path, path_of)  # also where a plugin says Path
        self._add_formats(parser)
        config_options.add(parser)
        plugin_option.add(parser)
        self.add_arguments(parser)
        # argparse prints its usage first, over several lines.
        parser.error = usage_error(prog_name)  # type: ignore[method-assign, assignment]
        return parser

    def _add_formats(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027
        """Add the options of what it shows; by itself a command shows nothing."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027
        """Add the command's own arguments."""

    @abstractmethod
    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """Do the work; return the exit status, or None for 0."""

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command; return its exit status."""
        try:
            with (
                endings_raised(),
                nullcontext() if self.takes_stevedore else loading.directly(),
                aside.said_by(self.named, quiet=self._is_quiet),
                plugin_option.registered(*self._before, parsed_args),
                change_log.kept(self._given, partial(self.policy, parsed_args)),
            ):
                status = self._carried_out(parsed_args) or self.exit_status
            sys.stdout.flush()  # report a full disk here, not when Python exits
        except BrokenPipeError:
            raise
        except KeyboardInterrupt as error:
            tell(self.named, f"{telling.said(error)}; {self.state}")
            return error.exit_status if isinstance(error, Ended) else INTERRUPTED
        except BaseException as error:
            if self.owner is None and not isinstance(error, Exception):
                raise
            status = self._report(error)  # the last resort of the program
            standard_output.drop(sys.stdout)
        return status

    def _carried_out(self, parsed_args: argparse.Namespace) -> int:
        return int(self.take_action(parsed_args) or 0)

    def policy(self, arguments: argparse.Namespace) -> Policy:
        """Return the host's policy, from the files that the user names or the default.

        :raises ConfigError: when it cannot be read.
        """
        if self._policy is None:
            self._policy = config_options.policy(*self._before, arguments)
        return self._policy

    @property
    def named(self) -> str:
        """What its errors and warnings begin with: the program and the command."""
        return " ".join(filter(None, (PROGRAM, self.cmd_name)))

    @property
    def _is_quiet(self) -> bool:
        return self.app_args is not None and not self.app_args.verbose_level

    @property
    def _given(self) -> Sequence[str]:
        """The command line, or as much as is known of it."""
        return getattr(self.app, "given", ()) or (self.cmd_name or "").split()[1:]

    @property
    def _before(self) -> tuple[argparse.Namespace, ...]:
        """The options before the command's name."""
        return (self.app_args,) if self.app_args else ()

    def fail(self, error: Exception) -> None:
        """Report an error and go on; the exit status is the first one's."""
        status = self._report(error)
        self.exit_status = self.exit_status or status

    def _report(self, error: BaseException) -> int:
        if self.app_args and self.app_args.debug:
            import traceback

            for line in "".join(traceback.format_exception(error)).splitlines():
                put(one_line(line))
        if isinstance(error, Error):
            message, status = str(error), error.exit_status
        elif isinstance(error, FileNotFoundError) and _is_nowhere():
            message, status = f"{_NOWHERE}; {self.state}", USAGE
        else:
            message = f"{self.failure(error)}; {self.state}"
            status = UNEXPECTED
        tell(self.named, message)
        return status

    def failure(self, error: BaseException) -> str:
        """Return what failed unexpectedly, and whose it is if not allocpolicy's."""
        if self.is_done and isinstance(error, OSError):
            return why_unwritten(error)
        if self.owner is None:
            return f"{type(error).__name__}: {error}"
        return f"the command of {self.owner} failed: {raised(error)}"


def _is_nowhere() -> bool:
    """Return whether a relative path leads nowhere, whatever it is."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
