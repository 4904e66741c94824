"""Creating many disks, by several processes: one that fails harms no other."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, closing, suppress
from functools import partial
from importlib import import_module
from typing import Any

from allocpolicy import arguments
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error, InvalidRequest, WorkerLost
from allocpolicy.log import telling
from allocpolicy.log.entry import Record
from allocpolicy.operations.alike import Alike
from allocpolicy.operations.crew import Crew
from allocpolicy.operations.each_once import EachOnce
from allocpolicy.operations.provision import Order, provisioned
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.record import dataclass
from allocpolicy.registry import installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.report import Report
from allocpolicy.resolve.policy import in_force
from allocpolicy.resolve.selection import resolve
from allocpolicy.wording import raised

_PER_CORE = 4  # processes: most of a disk's time is waiting for its syncs
# What is imported when a disk is made: by the admission, and for its tables.
_LATE = ("execute.demand", "images.appearance", "observe.account", "qcow2.writer")
LOST = (
    "its worker process was killed, perhaps for lack of memory, or ended by a plugin:"
    " if the disk is there, it is complete"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of an order: the report of a disk, or the error that there is none.

    After a `FailedAfterwards` the disk is there nevertheless.
    """

    order: Order  #: what was asked for
    report: Report | None = None  #: what the disk is; None: it failed
    error: Exception | None = None  #: why it failed; None: it didn't


def provision_many(
    orders: Iterable[Order],
    *,
    policy: Policy | None = None,
    watch: Watcher = unwatched,
    jobs: int | None = None,
) -> Iterator[Result]:
    """Create disks, each as `provision` does; yield what becomes of each, in order.

    A result comes as soon as those before it have: its disk is complete by then, and
    durable. Orders are taken as there are processes for them, some ahead of the
    results. They are independent: none may have another's disk as its base image. Where
    not all fit, as many reservations succeed as do one after another, whichever.

    An iteration that is abandoned or interrupted gives up what is in work, and leaves
    the disks that are complete.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :param watch: is told how many are done.
    :param jobs: the number of processes; by default four per core, and with 1
        everything is done in this one.
    :raises ConfigError: when the configuration can't be read.
    :raises InvalidRequest: when jobs is less than 1.
    :raises WorkerLost: in the iteration, when there can be no process at all.
    """
    watch = heard(arguments.call(watch, "watch"))
    processes = checked_jobs(jobs)
    total = len(orders) if isinstance(orders, Sized) else 0
    if total == 1:
        processes = 1
    policy, given = in_force(policy), _given(orders)
    results = (
        _one_by_one(given, policy=policy)
        if processes == 1
        else _by_workers(given, policy=policy, processes=processes)
    )
    return _watched(results, watch=watch, total=total)


def checked_jobs(jobs: int | None) -> int:
    """Return how many processes there are to be.

    :raises InvalidRequest: when that is less than 1.
    """
    if jobs is None:
        return _PER_CORE * len(os.sched_getaffinity(0))
    jobs = arguments.number(jobs, "jobs")
    if jobs < 1:
        raise InvalidRequest(f"jobs = {jobs}: at least one process must work")
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """An order, and why it is refused, if it is.

    ``is_alike``: one before it asks for such a disk.
    """

    order: Order
    refusal: InvalidRequest | None
    is_alike: bool


def _given(orders: Iterable[Order]) -> Iterator[_Given]:
    """Yield the orders, checked against those before them.

    :raises InvalidRequest: when one is no `Order`.
    """
    before, kinds = EachOnce(), Alike()
    for number, order in enumerate(orders):
        arguments.instance(Order, order, f"orders[{number}]")
        disk = order.destination
        yield _Given(
            order=order,
            refusal=before.refusal(disk, base=order.base),
            is_alike=kinds.was_seen(disk, *_kind(order)),
        )


def _kind(order: Order) -> tuple[object, ...]:
    return (
        *(order.virtual_size, order.base, order.base_format, order.format),
        *(order.disk_role, order.flavor, order.extra_specs, order.labels),
    )


def _watched(
    results: Generator[Result, None, None], *, watch: Watcher, total: int
) -> Iterator[Result]:
    progress = watch("create disks")
    with closing(results):  # at once, whoever holds the traceback of what ended it
        for number, result in enumerate(results, start=1):
            progress(done=number, total=total)
            yield result


def _one_by_one(
    given: Iterable[_Given], *, policy: Policy
) -> Generator[Result, None, None]:
    tried = set[str]()
    for one in given:
        with ExitStack() as late:
            result = _result(one, policy=policy, late=late, tried=tried)
        yield result


def _by_workers(
    given: Iterator[_Given], *, policy: Policy, processes: int
) -> Generator[Result, None, None]:
    orders: deque[Order] = deque()
    told = -1

    def noted() -> Iterator[_Given]:
        for one in given:
            orders.append(one.order)
            yield one

    with Crew(
        partial(_answer, policy=policy, tried=set[str]()),
        lost=_lost,
        workers=processes,
        first=lambda one: warm(one.order, policy=policy),
    ) as crew:
        try:
            for number, answer in crew.answers(noted()):
                told = number
                report, error = _received(answer)
                yield Result(order=orders.popleft(), report=report, error=error)
        except BaseException:  # an abandoned iteration is one
            for number, answer in crew.last_answers():
                if number > told:
                    _received(answer)
            raise


def _result(one: _Given, *, policy: Policy, late: ExitStack, tried: set[str]) -> Result:
    """Return what becomes of an order, an error too.

    :param tried: the recipes of disks that this process tried to have prepared ahead.
    """
    order = one.order
    if one.refusal is not None:
        return Result(order=order, error=one.refusal)
    try:
        report = provisioned(
            order,
            policy=policy,
            watch=unwatched,
            late=late,
            tried_ahead=tried if one.is_alike else None,
        )
    except Exception as error:  # noqa: BLE001  (the other disks' turn)
        return Result(order=order, error=error)
    return Result(order=order, report=report)


def warm(order: Order, *, policy: Policy) -> None:
    """Import what such disks take, so that each worker needn't: 0.1 s of CPU in all."""
    for name in _LATE:
        import_module(f"allocpolicy.{name}")
    with suppress(Exception):  # it is told of the order
        resolve(
            policy=policy,
            disk_role=order.disk_role,
            flavor=order.flavor,
            overrides=order.extra_specs,
            labels=order.labels,
        )


def _answer(one: _Given, *, policy: Policy, late: ExitStack, tried: set[str]) -> bytes:
    """Return what becomes of an order, and the records of it, for the parent."""
    with telling.kept() as records:
        try:
            done = _result(one, policy=policy, late=late, tried=tried)
        except KeyboardInterrupt as error:  # the parent gives everything up
            return _sent(None, Error(telling.said(error)), records)
    return _sent(done.report, done.error, records)


def _lost(_: _Given) -> bytes:
    return _sent(None, WorkerLost(LOST), ())


def _sent(
    report: Report | None, error: Exception | None, records: Sequence[Record]
) -> bytes:
    try:
        return _pickled((report, error, records))
    except Exception as failure:  # noqa: BLE001  (of an error of a plugin's making)
        said = Error(f"{raised(error or failure)}; it can't be told otherwise")
        return _pickled((None, said, records))


def _pickled(answer: object) -> bytes:
    """Return it pickled; a strategy is loaded by its name where it arrives."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {**copyreg.dispatch_table, Loaded: _by_name}
    pickler.dump(answer)
    return stream.getvalue()


def _by_name(loaded: Loaded) -> tuple[Any, ...]:
    return installed.load, (loaded.found.name,)


def _received(answer: bytes) -> tuple[Report | None, Exception | None]:
    """Return what an answer says of the disk; tell of its records."""
    report, error, records = pickle.loads(answer)  # noqa: S301  (our own)
    for record in records:
        telling.pass_on(record)
    return report, error
