"""``allocpolicy strategy check``: whether a strategy keeps to what all do."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from allocpolicy.cli.command import Lister, Row
from allocpolicy.cli.screens.columns import Data, sentence
from allocpolicy.cli.streams import aside
from allocpolicy.storage import signals
from allocpolicy.testing import entrance, suite
from allocpolicy.testing.laws import laws
from allocpolicy.testing.outcome import Outcome, unneeded
from allocpolicy.testing.suite import Result

BROKEN = 1

_CLEARED = "\r\x1b[K"


def _reasons(row: Data) -> str:
    reasons = row["reasons"]
    assert isinstance(reasons, list)
    return "; ".join(reasons)


class StrategyCheck(Lister):
    """Try the conformance suite on an installed strategy.

    Exit status 1: it breaks a law that is not waived.
    """

    takes_stevedore = True

    fields = ("law", "outcome", "reasons")
    columns = ("law", "outcome", sentence("reasons", cell=_reasons))
    state = "what was made to try it is removed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="an installed strategy")
        parser.add_argument(
            "--dir",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="where disks are made; may be repeated, once for each filesystem"
            " (default: where temporary files are)",
        )
        parser.add_argument(
            "--filesystems",
            type=lambda text: text.split(","),
            default=[],
            metavar="KIND,...",
            help="make disks on new filesystems of these kinds, as root: ext4, xfs,"
            " btrfs, ext2, tmpfs",
        )
        parser.add_argument(
            "--waive",
            action="append",
            default=[],
            metavar="LAW=REASON",
            help="a law that the strategy is known to break; may be repeated",
        )

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        given = entrance.Given(
            strategy=arguments.name,
            directories=arguments.dir,
            filesystems=arguments.filesystems,
            waived=entrance.waivers(arguments.waive),
        )
        subject = given.check()
        with _ended_once() as ended, entrance.grounds_of(given) as grounds:
            results = list(_told(suite.run(subject, grounds=grounds), ended=ended))
        if any(result.outcome is Outcome.BROKEN for result in results):
            self.exit_status = BROKEN
        aside.say(f"{subject.name}: {suite.summary(results)}")
        waived = [result.law.name for result in results if result.unneeded]
        if waived:
            aside.say(f"{subject.name}: {unneeded(waived)}")
        return [
            (result.law.name, str(result.outcome), list(result.reasons))
            for result in results
        ]


@contextmanager
def _ended_once() -> Iterator[Sequence[int]]:
    """Let a signal that ends the command end it as Ctrl-C does: what was made goes.

    Yields a list that has the signal once it came: Python loses an exception that a
    handler raises while it forks. Those that follow don't disturb the removal.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(number)
            raise signals.ending(number)

    ignored = signal.SIG_IGN
    heeded = [one for one in signals.ENDING if signal.getsignal(one) is not ignored]
    before = {one: signal.signal(one, end) for one in heeded}
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _told(results: Iterator[Result], *, ended: Sequence[int]) -> Iterator[Result]:
    """Yield the results; on a terminal, say how far it is, as this takes a minute.

    Without a thread, as a bar of progress has: laws start processes.

    :raises KeyboardInterrupt: when a signal has ``ended`` it meanwhile.
    """
    total, terminal = len(laws()), sys.stderr.isatty() and not aside.is_quiet()
    for number, result in enumerate(results, start=1):
        if ended:
            raise signals.ending(ended[0])
        if terminal:
            told = f"{_CLEARED}{number} of {total} laws"
            print(told, end="", file=sys.stderr, flush=True)
        yield result
    if terminal:
        print(_CLEARED, end="", file=sys.stderr)
