"""Where a command's log goes: the record of changes, and what ``-v`` shows."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence

from allocpolicy.contract.policy import ChangeLog, Policy
from allocpolicy.errors import Error
from allocpolicy.log import telling
from allocpolicy.log.entry import Record

# Libraries that tell how they work, and what they miss, as a matter of course.
_LIBRARIES = ("asyncio", "cliff", "oslo_config", "oslo_utils", "stevedore")
_OURS = "allocpolicy"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is logged."""
    parser.add_argument(
        "--log-json",
        action="store_true",
        help="write each change as one JSON object in a line (schemas/change.json) to"
        " stderr, or to the end of --log-file, which then gets nothing else",
    )


@contextlib.contextmanager
def kept(arguments: Sequence[str], policy: Callable[[], Policy]) -> Iterator[None]:
    """Record the body's changes where the operator wants them recorded.

    :param arguments: the command line.
    :param policy: returns the operator's decisions, as far as they can be read.
    """

    def receive(record: Record) -> None:
        try:
            place = policy().change_log
        except Error:  # changes that need no configuration are made all the same
            place = ChangeLog.AUTO
        telling.sent(record, to=place)

    with telling.told_to(receive, command=shlex.join((_OURS, *arguments))):
        yield


def write_json(stream: logging.Handler) -> None:
    """Write changes to a handler, as JSON; nobody else is told of them."""
    logger = logging.getLogger(telling.LOGGER)
    stream.setFormatter(_Json())
    logger.addHandler(stream)
    logger.propagate = False


def hide_libraries(handler: logging.Handler, *, verbose: bool) -> None:
    """Let a handler have allocpolicy's own words, and the warnings of plugins.

    :param verbose: also of changes that failed, which the command's error tells.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        name = record.name.partition(".")[0]
        if name == _OURS:
            return verbose or record.name != telling.LOGGER
        return name not in _LIBRARIES and record.levelno >= logging.WARNING

    handler.addFilter(is_shown)


class _Json(logging.Formatter):
    """A change's record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(vars(record)["change"])
