"""The journal or syslog, told by one datagram that nobody waits for.

The journal gets fields (systemd's "Native Journal Protocol"), syslog a line as
syslog(3) sends it. Where neither is, or has no room, the datagram is lost: no change
waits for a log, or fails for it. syslog(3) itself would wait.
"""

from __future__ import annotations

import errno
import os

# `socket` alone would be a tenth of what libvirt's hook imports.
from _socket import (
    AF_UNIX,
    MSG_NOSIGNAL,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
)
from _socket import socket as Socket  # noqa: N812  (a class, as socket.socket)
from collections.abc import Mapping

PROGRAM = "allocpolicy"
# Where each listens; the tests listen elsewhere.
JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"

# Levels as syslog(3) numbers them.
ERROR, WARNING, INFO = 3, 4, 6
_DAEMON = 3  # the facility
LONGEST = 900  #: characters of a line; some syslog daemons cut those of 1 KiB
_LONGEST_FIELD = 16384  # characters

#: which of them is told, by the words of the option ``change_log``
PLACES = {
    "auto": ("journal", "syslog"),
    "journal": ("journal",),
    "syslog": ("syslog",),
    "none": (),
}


def send(
    line: str,
    *,
    level: int = INFO,
    fields: Mapping[str, str] | None = None,
    to: str = "auto",
) -> bool:
    """Tell the first place that is there, for us; return whether it took it.

    :param line: for people; without line breaks, as are the fields.
    :param fields: what the journal gets beside it, by name.
    :param to: one of `PLACES`.
    """
    for place in PLACES[to]:
        if place == "journal":
            address, message = JOURNAL, _fields(line, level=level, fields=fields or {})
        else:
            address, message = SYSLOG, _line(line, level=level)
        try:
            _sent(message, address)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False  # it is there, and takes nothing more
        else:
            return True
    return False


def _sent(message: bytes, address: str) -> None:
    try:
        _given(message, address, kind=SOCK_DGRAM)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
        # A syslog daemon that takes streams has each line end so, as of syslog(3).
        _given(message + b"\0", address, kind=SOCK_STREAM)


def _given(message: bytes, address: str, *, kind: int) -> None:
    channel = Socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        channel.connect(address)
        channel.send(message, MSG_NOSIGNAL)
    finally:
        channel.close()


def _line(line: str, *, level: int) -> bytes:
    priority = _DAEMON << 3 | level
    said = f"<{priority}>{PROGRAM}[{os.getpid()}]: {line[:LONGEST]}"
    return said.encode(errors="backslashreplace")


def _fields(line: str, *, level: int, fields: Mapping[str, str]) -> bytes:
    told = {
        "MESSAGE": line,
        "PRIORITY": str(level),
        "SYSLOG_FACILITY": str(_DAEMON),
        "SYSLOG_IDENTIFIER": PROGRAM,
        "SYSLOG_PID": str(os.getpid()),
        **fields,
    }
    said = "".join(f"{name}={text[:_LONGEST_FIELD]}\n" for name, text in told.items())
    return said.encode(errors="backslashreplace")
