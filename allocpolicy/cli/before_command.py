"""The options before the command's name, and what they say of logging."""

from __future__ import annotations

import argparse
import logging
import sys

from allocpolicy import __version__
from allocpolicy.cli.options import config_options, plugin_option
from allocpolicy.cli.streams import change_log
from allocpolicy.cli.streams.failure import PROGRAM, usage_error

NORMAL = 1  #: how much is told if neither -v nor -q says it
_ON_CONSOLE = {0: logging.WARNING, NORMAL: logging.INFO}  # -v: all
_IN_FILE = "[%(asctime)s] %(levelname)-8s %(name)s %(message)s"


def parser() -> argparse.ArgumentParser:
    """Return the parser of these options; it leaves all others to the command."""
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Decide how a VM disk's storage is allocated, and prove it.",
        add_help=False,
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


def configure_logging(options: argparse.Namespace) -> str:
    """Log to stderr, and to a file if one is asked for; return why it can't be.

    allocpolicy reports each error once, in one line, and not by logging.
    """
    logging.raiseExceptions = options.debug  # a full disk of a log is no error
    handlers: list[logging.Handler] = []
    why = ""
    try:
        if options.log_json:
            change_log.write_json(_json_handler(options.log_file))
        elif options.log_file:
            handlers.append(_file_handler(options.log_file))
    except OSError as error:
        why = f"--log-file {options.log_file}: {error.strerror}"
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(_ON_CONSOLE.get(options.verbose_level, logging.DEBUG))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    for one in (*handlers, console):
        if not options.debug:
            shown = options.verbose_level > NORMAL or one is not console
            change_log.hide_libraries(one, verbose=shown)
        root.addHandler(one)
    return why


def _json_handler(file: str | None) -> logging.Handler:
    return logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)


def _file_handler(file: str) -> logging.Handler:
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(_IN_FILE))
    return handler
