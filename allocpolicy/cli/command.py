"""What all commands share: one-line errors, exit statuses, the choice of a policy."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from cliff.command import Command as CliffCommand
from cliff.lister import Lister as CliffLister
from cliff.show import ShowOne as CliffShowOne

from allocpolicy.cli.program import INTERRUPTED
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import Error, ExtraSpecError, InvalidRequest
from allocpolicy.resolve import config_places, extra_specs, flavors
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import Selection, resolve

USAGE, UNEXPECTED = 2, 5
STRUCTURED = ("json", "yaml")  # formatters that take data, not text for people


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add where the configuration is read from."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="read this file instead of the default ones; may be repeated",
    )
    group.add_argument(
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="read the *.conf files of this directory; may be repeated",
    )


def add_flavor_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a flavor, of extra specs, and of the disk."""
    group = parser.add_argument_group("choice of the policy")
    group.add_argument("--flavors", type=Path, metavar="FILE", help="a flavors file")
    group.add_argument("--flavor", metavar="NAME", help="the flavor in it")
    group.add_argument(
        "--extra-spec",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="adds to or overrides the flavor's; may be repeated",
    )
    group.add_argument(
        "--strategy",
        metavar="NAME",
        help=f"short for --extra-spec {extra_specs.STRATEGY}=NAME",
    )
    group.add_argument(
        "--disk",
        choices=[str(role) for role in DiskRole],
        default=str(DiskRole.ROOT),
        help="which disk of the instance it is (default: %(default)s)",
    )


def add_disk_format(parser: argparse.ArgumentParser) -> None:
    """Add the format of a disk that has no stamp to say it."""
    parser.add_argument(
        "--format",
        dest="disk_format",
        choices=[str(one) for one in DiskFormat],
        help="the disk's format, which a stamp says; it is never found by content",
    )


class Command(CliffCommand):
    """A command whose errors are one line on stderr, with the right exit status.

    ``state`` is what holds when it is interrupted, or when its output fails.
    """

    state = "nothing was changed"
    _failure = 0

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser that says what is wrong in one line."""
        parser = super().get_parser(prog_name)
        add_config_options(parser)
        self.add_arguments(parser)
        # argparse prints its usage first, over several lines.
        parser.error = usage_error(prog_name)  # type: ignore[method-assign, assignment]
        return parser

    def get_epilog(self) -> str:
        """Return nothing: all commands are ours.

        cliff looks through the files of every installed distribution to name the one
        that brought a command, whether its help is asked for or not.
        """
        return ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command; return its exit status."""
        try:
            status = super().run(parsed_args) or self._failure
            sys.stdout.flush()  # a full disk is told here, not by the interpreter's end
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            print(f"{self.cmd_name}: interrupted; {self.state}", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  (the last resort of the program)
            status = self._report(error)
            _drop_output()
        return status

    def policy(self, arguments: argparse.Namespace) -> Policy:
        """Return the host's policy, from the files that the user named or the default.

        :raises ConfigError: when it cannot be read.
        """
        options = self.app_args or argparse.Namespace(config_file=[], config_dir=[])
        files = [*options.config_file, *arguments.config_file]
        directories = [*options.config_dir, *arguments.config_dir]
        if not (files or directories or config_places.any_used()):
            return Policy()
        from allocpolicy.resolve import config

        conf = config.load(config_files=files, config_dirs=directories)
        return config.policy(conf)

    def fail(self, error: Error) -> None:
        """Tell of an error and go on; the exit status is the first one's."""
        self._failure = self._failure or self._report(error)

    def _report(self, error: Exception) -> int:
        if self.app_args and self.app_args.debug:
            traceback.print_exception(error)
        expected = isinstance(error, Error)
        message = str(error)
        if not expected:
            message = f"{type(error).__name__}: {error}; {self.state}"
        print(f"{self.cmd_name}: {one_line(message)}", file=sys.stderr)
        return error.exit_status if isinstance(error, Error) else UNEXPECTED


def _drop_output() -> None:
    """Let go of what can't be written: at its end Python would try again (exit 120)."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class ShowOne(Command, CliffShowOne):
    """A command that shows one thing."""


class Lister(Command, CliffLister):
    """A command that lists things."""


def one_line(text: str) -> str:
    """Return the text without line breaks or other control characters."""
    joined = " ".join(text.split("\n"))
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in joined
    )


def chosen_flavor(arguments: argparse.Namespace) -> Flavor | None:
    """Return the flavor that the arguments choose.

    :raises InvalidRequest: when only half of the choice is there.
    :raises FlavorError: when the file or the flavor is not.
    """
    if arguments.flavor is None and arguments.flavors is None:
        return None
    if arguments.flavor is None:
        raise InvalidRequest("--flavors needs --flavor NAME")
    if arguments.flavors is None:
        raise InvalidRequest("--flavor needs --flavors FILE")
    return flavors.flavor(arguments.flavors, name=arguments.flavor)


def disk_format(arguments: argparse.Namespace) -> DiskFormat | None:
    """Return the format that the arguments say, or None."""
    return DiskFormat(arguments.disk_format) if arguments.disk_format else None


def given_extra_specs(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the extra specs of the command line.

    :raises ExtraSpecError: when one is not KEY=VALUE, or is said twice.
    """
    given = extra_specs.parse_assignments(arguments.extra_spec)
    if arguments.strategy is not None:
        if extra_specs.STRATEGY in given:
            reason = "--strategy says it a second time; leave one of them out"
            raise ExtraSpecError(
                extra_specs.STRATEGY, given[extra_specs.STRATEGY], reason
            )
        given[extra_specs.STRATEGY] = arguments.strategy
    return given


def selection(arguments: argparse.Namespace, *, policy: Policy) -> Selection:
    """Return the selection that the arguments and the policy lead to.

    :raises InvalidRequest: (its subclasses) when they are wrong.
    """
    return resolve(
        policy=policy,
        disk_role=DiskRole(arguments.disk),
        flavor=chosen_flavor(arguments),
        overrides=given_extra_specs(arguments),
    )


def given_choice(arguments: argparse.Namespace, *, policy: Policy) -> Choice | None:
    """Return the strategy and options that the arguments say; None if they say none.

    :raises InvalidRequest: (its subclasses) when they are wrong.
    """
    said = (arguments.flavors, arguments.flavor, arguments.strategy)
    if said == (None, None, None) and not arguments.extra_spec:
        return None
    chosen = selection(arguments, policy=policy)
    return Choice(strategy=chosen.strategy, options=chosen.options)


def lines(items: Iterable[object]) -> str:
    """Return the items for a cell of a table, one a line."""
    return "\n".join(map(str, items))


def usage_error(program: str) -> Callable[[str], NoReturn]:
    """Return what tells of a wrong command line in one line, and exits."""

    def error(message: str) -> NoReturn:
        print(f"{program}: {one_line(message)}; see {program} --help", file=sys.stderr)
        raise SystemExit(USAGE)

    return error
