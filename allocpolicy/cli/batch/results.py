"""What becomes of the lines of a batch: a line of JSON for each, in their order."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from allocpolicy.cli.batch import order
from allocpolicy.cli.batch.lines import Line
from allocpolicy.cli.batch.order import Defaults
from allocpolicy.cli.streams import failure, standard_output
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error, InvalidRequest, WorkerLost
from allocpolicy.log import telling
from allocpolicy.log.entry import Record
from allocpolicy.operations.alike import Alike
from allocpolicy.operations.each_once import EachOnce
from allocpolicy.operations.provision import provisioned
from allocpolicy.operations.provision_many import LOST, warm
from allocpolicy.progress import unwatched
from allocpolicy.record import dataclass, replace
from allocpolicy.storage.signals import Ended, interrupts_postponed
from allocpolicy.wording import one_line

_ITS_OWN = ("disk", "owner", "mode")
LEFT = "no unfinished disk was left behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of a line: what is printed of it, and what is counted."""

    number: int
    exit_status: int
    changed: bool
    text: str
    records: tuple[Record, ...] = ()


class Work:
    """Makes the disk of a line, in a worker."""

    def __init__(self, beside: Defaults, *, policy: Policy, debug: bool) -> None:
        self._beside, self._policy, self._debug = beside, policy, debug
        self._tried = set[str]()  # by each worker for itself

    def __call__(self, line: Line, /, *, late: ExitStack) -> bytes:
        with telling.kept() as records:
            told = self._told(line, late=late)
        return pickle.dumps(replace(told, records=tuple(records)))

    def warm(self, line: Line) -> None:
        """Import what such disks take, if the line is an order."""
        with contextlib.suppress(Exception):  # it is told of the line
            warm(order.of(line.given, self._beside), policy=self._policy)

    def _told(self, line: Line, *, late: ExitStack) -> Told:
        try:
            if line.problem:
                raise InvalidRequest(line.problem)
            wanted = order.of(line.given, self._beside)
            report = provisioned(
                wanted,
                policy=self._policy,
                watch=unwatched,
                late=late,
                tried_ahead=self._tried if line.is_alike else None,
            )
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (others' turn)
            if self._debug:
                for one in "".join(traceback.format_exception(error)).splitlines():
                    failure.put(one_line(one))
            return failed(line, error)
        return _said(
            line.number,
            disk=str(report.disk),
            changed=report.changed,
            report=report.as_document(),
        )


def failed(line: Line, error: BaseException) -> Told:
    """Return what is told of a disk that isn't there."""
    if isinstance(error, Error):
        message, status = str(error), error.exit_status
    elif isinstance(error, KeyboardInterrupt):
        message = f"{telling.said(error)}; {LEFT}"
        status = failure.INTERRUPTED
        if isinstance(error, Ended):
            status = error.exit_status
    else:
        message = f"{type(error).__name__}: {error}; {LEFT}"
        status = failure.UNEXPECTED
    kind = "Interrupted" if status >= failure.INTERRUPTED else type(error).__name__
    return _said(
        line.number, disk=line.disk, exit_status=status, kind=kind, error=message
    )


def lost(line: Line) -> bytes:
    """Return what is told of a disk at which a worker was killed."""
    return pickle.dumps(failed(line, WorkerLost(LOST)))


def _said(
    number: int,
    *,
    disk: str | None,
    exit_status: int = 0,
    kind: str | None = None,
    error: str | None = None,
    changed: bool = False,
    report: dict[str, object] | None = None,
) -> Told:
    document = {
        "line": number,
        "disk": disk,
        "exit_status": exit_status,
        "kind": kind,
        "error": None if error is None else one_line(error),
        "report": report,
    }
    return Told(
        number=number,
        exit_status=exit_status,
        changed=changed,
        text=json.dumps(document),
    )


def compared(lines: Iterator[Line | None]) -> Iterator[Line | None]:
    """Yield the lines; one whose disk an earlier one asks for, or such a one, says so.

    That of the same disk is none.
    """
    before, kinds = EachOnce(), Alike()
    for line in lines:
        if line is None or line.problem or not line.disk:
            yield line
            continue
        base = line.given.get("base")
        refusal = None
        with contextlib.suppress(ValueError):  # a path with NUL: its order tells
            refusal = before.refusal(
                Path(line.disk), base=Path(base) if isinstance(base, str) else None
            )
        problem = refusal.reason if refusal else ""
        is_alike = kinds.was_seen(Path(line.disk), *_kind(line))
        yield replace(line, problem=problem, is_alike=is_alike)


def _kind(line: Line) -> list[tuple[str, object]]:
    """Return all that the line says but whose disk it is."""
    return sorted(one for one in line.given.items() if one[0] not in _ITS_OWN)


class Output:
    """Standard output, on which nothing else writes meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._left = b""
        self.is_terminal = os.isatty(fd)

    def add(self, text: str) -> None:
        """Have a line written with the next `flush`."""
        self._left += f"{text}\n".encode()

    def flush(self) -> None:
        """Write what there is; an interrupt leaves the rest for the next time.

        :raises OSError: as write(2), BrokenPipeError included.
        """
        while self._left:
            select.select([], [self._fd], [])  # a pipe has room for PIPE_BUF then
            with interrupts_postponed():
                written = os.write(self._fd, self._left[: select.PIPE_BUF])
                self._left = self._left[written:]


@contextlib.contextmanager
def output() -> Iterator[Output]:
    """Yield standard output, whatever plugins print."""
    with standard_output.reserved() as fd:
        yield Output(fd)
