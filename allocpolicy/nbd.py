"""Serving bytes to a QEMU program over a socket, so that it opens no file.

Specification: doc/proto.md of the NBD project: the fixed newstyle handshake, and simple
replies. One client, one export, no TLS.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Protocol

_OPTION_MAGIC = b"IHAVEOPT"
_GREETING = b"NBDMAGIC" + _OPTION_MAGIC + struct.pack(">H", 0b11)  # newstyle, no zeroes
_OPTION = struct.Struct(">8sII")  # magic, option, length
_OPTION_REPLY = struct.Struct(">QIII")  # magic, option, type, length
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_OPT_ABORT, _OPT_GO = 2, 7
_REP_ACK, _REP_INFO, _REP_ERR_UNSUP = 1, 3, 1 << 31 | 1
_EXPORT = struct.Struct(">HQH")  # NBD_INFO_EXPORT, size, flags
_HAS_FLAGS, _SEND_FLUSH = 1, 4
_REQUEST = struct.Struct(">IHHQQI")  # magic, flags, type, cookie, offset, length
_REQUEST_MAGIC = 0x25609513
_REPLY = struct.Struct(">IIQ")  # magic, error, cookie
_REPLY_MAGIC = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_LONGEST = 64 << 20  # QEMU sends and asks for 32 MiB at most


class Store(Protocol):
    """Bytes that are read and written at offsets."""

    def read(self, offset: int, length: int) -> bytes:
        """Return so many bytes."""

    def write(self, offset: int, content: bytes) -> None:
        """Write them."""


class _Broken(Exception):
    """The client went away, or speaks no NBD."""


@contextlib.contextmanager
def served(store: Store, *, size: int) -> Iterator[int]:
    """Serve the store, ``size`` bytes long; yield the descriptor of the client's end.

    What the store raises ends the connection, and is raised afterwards.
    """
    ours, theirs = socket.socketpair()
    failures: list[Exception] = []

    def serve() -> None:
        try:
            with ours:
                _serve(ours, store, size=size)
        except (_Broken, OSError):  # of the socket: the client ended
            return
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            failures.append(error)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        with theirs:
            yield theirs.fileno()
    except Exception as error:
        _stopped(server, ours)
        if failures:  # which is why the client failed
            raise failures[0] from error
        raise
    finally:
        _stopped(server, ours)
    if failures:
        raise failures[0]


def _stopped(server: threading.Thread, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed by now
        connection.shutdown(socket.SHUT_RDWR)
    server.join()


def _serve(client: socket.socket, store: Store, *, size: int) -> None:
    client.sendall(_GREETING)
    _receive(client, 4)  # the client's flags
    if not _negotiated(client, size=size):
        return
    while True:
        magic, _, kind, cookie, offset, length = _REQUEST.unpack(
            _receive(client, _REQUEST.size)
        )
        if magic != _REQUEST_MAGIC or length > _LONGEST or kind == _DISCONNECT:
            return
        error, content = 0, b""
        if kind == _READ:
            content = store.read(offset, length)
        elif kind == _WRITE:
            store.write(offset, _receive(client, length))
        elif kind != _FLUSH:
            error = errno.EINVAL
        client.sendall(_REPLY.pack(_REPLY_MAGIC, error, cookie) + content)


def _negotiated(client: socket.socket, *, size: int) -> bool:
    """Answer the client's options; return whether the transmission begins."""
    while True:
        magic, option, length = _OPTION.unpack(_receive(client, _OPTION.size))
        if magic != _OPTION_MAGIC or length > _LONGEST:
            raise _Broken
        _receive(client, length)  # there is one export, whatever its name
        if option == _OPT_GO:
            export = _EXPORT.pack(0, size, _HAS_FLAGS | _SEND_FLUSH)
            _answer(client, option, _REP_INFO, export)
            _answer(client, option, _REP_ACK)
            return True
        if option == _OPT_ABORT:
            return False
        _answer(client, option, _REP_ERR_UNSUP)


def _answer(client: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    head = _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data))
    client.sendall(head + data)


def _receive(client: socket.socket, length: int) -> bytes:
    """Return so many bytes.

    :raises _Broken: when the client has ended before.
    """
    received = bytearray()
    while len(received) < length:
        chunk = client.recv(length - len(received))
        if not chunk:
            raise _Broken
        received += chunk
    return bytes(received)
