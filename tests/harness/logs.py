"""The sockets of the journal and of syslog, for a test to listen at."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from allocpolicy.log import datagram

_NOWHERE = "/nonexistent/log"


@dataclass(frozen=True, kw_only=True)
class Logs:
    """Who listens; changes in this process are told to them."""

    journal: socket.socket
    syslog: socket.socket

    def records(self) -> list[dict[str, str]]:
        """Return the fields of what the journal was told since the last call."""
        told = _received(self.journal)
        return [dict(line.split("=", 1) for line in one.splitlines()) for one in told]

    def lines(self) -> list[str]:
        """Return what syslog was told since the last call, priorities included."""
        return _received(self.syslog)


def _received(listener: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listener.recv(1 << 20).decode())
        except BlockingIOError:
            return found


@contextmanager
def nobody_told() -> Iterator[None]:
    """Keep what is changed in this process out of the machine's journal and syslog."""
    with (
        mock.patch.object(datagram, "JOURNAL", _NOWHERE),
        mock.patch.object(datagram, "SYSLOG", _NOWHERE),
    ):
        yield


@contextmanager
def listening() -> Iterator[Logs]:
    """Yield sockets that stand where the journal's and syslog's do, for this process.

    Their buffers are the kernel's own: a datagram is there once it is sent.
    """
    with (
        tempfile.TemporaryDirectory() as place,
        _bound(Path(place, "journal")) as journal,
        _bound(Path(place, "syslog")) as syslog,
        mock.patch.object(datagram, "JOURNAL", f"{place}/journal"),
        mock.patch.object(datagram, "SYSLOG", f"{place}/syslog"),
    ):
        yield Logs(journal=journal, syslog=syslog)


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(path))
        one.setblocking(False)
        yield one
