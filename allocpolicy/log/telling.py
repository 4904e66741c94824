"""Telling of a change: the face that makes it, and whoever listens to our logger.

A command and libvirt's hook tell the journal or syslog. Another program, whose Python
calls ours, has handlers of its own: it gets the same by the standard library's logging.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from allocpolicy.errors import Error
from allocpolicy.log import author, datagram
from allocpolicy.log.entry import Entry, Record, State
from allocpolicy.record import dataclass, replace
from allocpolicy.wording import one_line, printable, raised

LOGGER = "allocpolicy.changes"  #: what the standard library's logging calls it
#: of every change; journalctl finds them by it
MESSAGE_ID = "5c1a6f0e9d3b4e57a8c2f4b07d1e6a93"

Receiver = Callable[[Record], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """What makes the changes of this thread, and who is told of them."""

    receiver: Receiver | None = None  #: told of each; None: nobody but our logger
    command: str = ""  #: what makes them; empty: the program
    domain: str | None = None  #: the UUID of the domain for which they are made
    is_silent: bool = False  #: nobody at all is told, our logger neither
    is_kept: bool = False  #: the receiver alone is told, who tells the others later


_NOBODY = Face()
_face: ContextVar[Face] = ContextVar("_face", default=_NOBODY)


@contextlib.contextmanager
def told_to(receiver: Receiver, *, command: str) -> Iterator[None]:
    """Have the receiver told of all changes in the body.

    :param command: what is told as the command that makes them.
    """
    with _as(replace(_face.get(), receiver=receiver, command=command)):
        yield


@contextlib.contextmanager
def for_domain(uuid: str) -> Iterator[None]:
    """Have it told of all changes in the body that they are made for a domain."""
    with _as(replace(_face.get(), domain=uuid)):
        yield


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Have nobody told of the changes in the body, as of disks that are a trial's."""
    with _as(replace(_face.get(), is_silent=True)):
        yield


@contextlib.contextmanager
def kept() -> Iterator[list[Record]]:
    """Keep the records of the body's changes, for another process to `pass_on`."""
    records: list[Record] = []
    with _as(replace(_face.get(), receiver=records.append, is_kept=True)):
        yield records


@contextlib.contextmanager
def _as(face: Face) -> Iterator[None]:
    token = _face.set(face)
    try:
        yield
    finally:
        _face.reset(token)


def tell(entry: Entry) -> None:
    """Tell of a change, whatever becomes of what is said."""
    face = _face.get()
    if face.is_silent:
        return
    record = Record(
        entry=replace(entry, domain=entry.domain or face.domain),
        author=author.current(),
        command=face.command or _program(),
        pid=os.getpid(),
        at=time.time(),
    )
    pass_on(record)


def pass_on(record: Record) -> None:
    """Tell what is recorded of a change, whatever becomes of what is said."""
    face = _face.get()
    log = None if face.is_kept else _log
    for told in filter(None, (face.receiver, log)):
        with contextlib.suppress(Exception):  # the change is made: it must not fail
            told(record)


@contextlib.contextmanager
def changing(
    operation: str,
    *,
    disk: Path | None = None,
    domain: str | None = None,
    file: Path | None = None,
    before: State | None = None,
    refusals: tuple[type[Error], ...] = (),
) -> Iterator[Callable[[State | None], None]]:
    """Tell of a change of a file or a domain when it is done, or fails.

    The yielded function is called when it is done, with what there is now.

    :param refusals: errors by which it is refused before it begins.
    """
    started, is_done = time.monotonic(), False

    def told(after: State | None = None, *, error: str | None = None) -> None:
        nonlocal is_done
        is_done = True
        tell(
            Entry(
                operation=operation,
                disk=disk,
                domain=domain,
                file=file,
                before=before,
                after=after,
                error=error,
                seconds=time.monotonic() - started,
            )
        )

    try:
        yield told
    except BaseException as error:
        if not is_done and not isinstance(error, refusals):
            told(error=said(error))
        raise


def said(error: BaseException) -> str:
    """Return why a change failed, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return one_line(str(error)) or "interrupted"
    return one_line(str(error)) if isinstance(error, Error) else raised(error)


def sent(record: Record, *, to: str) -> bool:
    """Tell the journal or syslog; return whether one of them took it.

    :param to: one of `datagram.PLACES`.
    """
    failed = record.entry.error is not None
    return datagram.send(
        record.line,
        level=datagram.ERROR if failed else datagram.INFO,
        fields=_fields(record),
        to=to,
    )


def _fields(record: Record) -> dict[str, str]:
    """Return the fields of the journal: those of the document that have a value."""
    import json

    fields = {"MESSAGE_ID": MESSAGE_ID}
    for name, value in record.as_document().items():
        if value is None or name in {"time", "pid"}:  # which the journal has itself
            continue
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        fields[name.upper()] = printable(text)
    return fields


def _log(record: Record) -> None:
    """Have it logged; where nobody has imported logging, nobody listens."""
    logging = sys.modules.get("logging")
    if logging is None:
        return
    logger = logging.getLogger(LOGGER)
    if not logger.handlers:  # what nobody handles would be printed
        logger.addHandler(logging.NullHandler())
    level = logging.INFO if record.entry.error is None else logging.ERROR
    logger.log(level, "%s", record.line, extra={"change": record.as_document()})


def _program() -> str:
    """Return the program's name: its arguments may be nobody else's business."""
    return os.path.basename(sys.argv[0] if sys.argv else "") or "python"
