"""Where a command's record of changes goes: where the operator wants it."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence

from allocpolicy.contract.policy import ChangeLog, Policy
from allocpolicy.errors import Error
from allocpolicy.log import telling
from allocpolicy.log.entry import Record

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
