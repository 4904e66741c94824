"""The options before the command's name, and what they say of logging."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from allocpolicy import __version__
from allocpolicy.cli.options import config_options, plugin_option
from allocpolicy.cli.parsers import plain
from allocpolicy.cli.streams import change_log, late_import
from allocpolicy.cli.streams.failure import PROGRAM, usage_error

NORMAL = 1  #: how much is told if neither -v nor -q says it


def parser() -> argparse.ArgumentParser:
    """Return the parser of these options; it leaves all others to the command."""
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Decide how a VM disk's storage is allocated, and prove it.",
        add_help=False,
        formatter_class=plain,
    )
    made.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_amount(made)
    made.add_argument(
        "--log-file",
        metavar="FILE",
        help="also write what is logged to the end of this file",
    )
    made.add_argument(
        "-h", "--help", action="store_true", help="show this help, or a command's"
    )
    made.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    change_log.add_options(made)
    config_options.add(made)
    plugin_option.add(made)
    made.error = usage_error(PROGRAM)  # type: ignore[method-assign, assignment]
    return made


def _add_amount(parser: argparse.ArgumentParser) -> None:
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "-v",
        "--verbose",
        action="count",
        dest="verbose_level",
        default=NORMAL,
        help="tell more of what is done; may be repeated",
    )
    amount.add_argument(
        "-q",
        "--quiet",
        action="store_const",
        dest="verbose_level",
        const=0,
        help="have nothing but the result, and errors on stderr: no warnings, hints,"
        " summaries or bars",
    )


@contextlib.contextmanager
def logged(options: argparse.Namespace) -> Iterator[str]:
    """Log as the options say while the body runs; yield why that can't be, or nothing.

    If they say nothing, what a plugin logs is shown all the same: logging is set up
    when it is imported. To import it takes longer than many a command's own work.
    """
    is_plain = options.verbose_level == NORMAL and not options.debug
    is_plain = is_plain and not (options.log_file or options.log_json)
    if not is_plain or "logging" in sys.modules:
        yield _configured(options)
        return
    with late_import.watched("logging", then=lambda: _configured(options)):
        yield ""


def _configured(options: argparse.Namespace) -> str:
    from allocpolicy.cli.streams import logs

    return logs.configure(options, normal=NORMAL)
