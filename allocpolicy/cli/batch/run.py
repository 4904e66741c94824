"""Making the disks of a batch, and printing what becomes of each."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator

from allocpolicy.cli.batch import lines, order, results
from allocpolicy.cli.batch.lines import Line, Lines
from allocpolicy.cli.batch.results import Output, Told
from allocpolicy.cli.screens import formats
from allocpolicy.cli.streams import aside, progress
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.log import telling
from allocpolicy.operations.crew import Crew
from allocpolicy.operations.provision_many import checked_jobs
from allocpolicy.progress import unwatched
from allocpolicy.storage.signals import interrupts_postponed


def check(arguments: argparse.Namespace) -> None:
    """Check that the arguments are for a batch.

    :raises InvalidRequest: when they aren't.
    """
    if arguments.destination is not None:
        raise InvalidRequest("--batch FILE has the disks: leave DEST out")
    if arguments.formatter not in (formats.SCREEN, "json"):
        given = f"-f {arguments.formatter}"
        raise InvalidRequest(f"{given} has no effect: --batch prints lines of JSON")
    if arguments.columns:
        raise InvalidRequest("-c has no effect: --batch prints lines of JSON")


class Batch:
    """What became of the disks so far."""

    def __init__(self) -> None:
        self.lines = self.made = 0
        self.exit_status = 0  #: the worst
        self.has_changed = False
        self._next = 0

    @property
    def failed(self) -> int:
        """Return how many lines have no disk."""
        return self.lines - self.made

    @property
    def state(self) -> str:
        """Return what holds when it is interrupted."""
        made = f"{self.made} disk{'' if self.made == 1 else 's'}"
        return f"{made} were created and are complete; {results.LEFT}"

    def run(
        self, arguments: argparse.Namespace, *, policy: Policy, debug: bool
    ) -> None:
        """Make the disks, and print what becomes of each.

        :raises InvalidRequest: when the arguments are wrong, or no line is an order.
        :raises OSError: when the output can't be written.
        """
        beside = order.defaults(arguments)
        work = results.Work(beside, policy=policy, debug=debug)
        workers = checked_jobs(arguments.jobs)
        with (
            lines.opened(arguments.batch) as given,
            results.output() as out,
            progress.shown(counted=True) as watch,
            Crew(work, lost=results.lost, workers=workers, first=work.warm) as crew,
        ):
            report = (unwatched if out.is_terminal else watch)("create disks")
            for _ in self._told(crew, given, out):
                report(done=self.lines, total=0)
        if not self.lines:
            raise InvalidRequest(f"--batch {arguments.batch}: it has no orders")
        self._sum_up()

    def _told(self, crew: Crew[Line], given: Lines, out: Output) -> Iterator[None]:
        """Print what becomes of each line; yield after each."""
        things = results.compared(iter(given))
        try:
            for number, answer in crew.answers(things, source=given.source):
                self._note(number, answer, out)
                out.flush()
                yield
        except OSError:  # nobody reads it: what is done is logged all the same
            for number, answer in crew.last_answers():
                self._note(number, answer, out)
            raise
        except BaseException:
            for number, answer in crew.last_answers():
                self._note(number, answer, out)
            out.flush()
            raise

    def _note(self, number: int, answer: bytes, out: Output) -> None:
        """Count what became of a line, and tell of it, once."""
        with interrupts_postponed():
            if number < self._next:
                return
            self._next = number + 1
            told: Told = pickle.loads(answer)  # noqa: S301  (our own)
            out.add(told.text)
            self.lines += 1
            self.made += told.exit_status == 0
            self.exit_status = max(self.exit_status, told.exit_status)
            self.has_changed |= told.changed
            for record in told.records:
                telling.pass_on(record)

    def _sum_up(self) -> None:
        if self.failed:
            aside.tell(f"{self.failed} of {self.lines} disks failed")
        else:
            aside.say(f"{self.lines} disks")
