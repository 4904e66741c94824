"""Why a QEMU program failed: which file is at fault, and the error that it means."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from typing import NoReturn

from allocpolicy.errors import (
    CommandError,
    Error,
    ImageError,
    NotEnoughSpace,
    StorageFailed,
    Unsupported,
)
from allocpolicy.qemu_nodes import Image
from allocpolicy.storage import sparse
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes

PROGRAM = "qemu-img"
MISSING = 127  # the exit status of a program that isn't installed
NOT_INSTALLED = "it is not installed; bindep.txt lists the system packages"
# Killed from outside: nobody's fault.
_STOPPED = frozenset({-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL})
# What convert_do_read and convert_do_write of QEMU's qemu-img.c say.
_READING = re.compile(r"error while reading (at byte|block status)")
_WRITING = re.compile(r"error while writing at byte")
_OUR_NAME = re.compile(r"/proc/self/fd/(\d+)")
_UNSUPPORTED = re.compile(r"Operation not supported|File too large")
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
# EIO: of the host, and QEMU's word for a malformed compressed cluster.
_FAILED = re.compile(r"Input/output error|Structure needs cleaning")
_CHUNK = 4 << 20


def damage(image: Image, *, reason: str) -> ImageError:
    """Return the error of an image that qemu-img rejects."""
    for said in (f"{image.path}: ", f"{PROGRAM}: ", f"Could not open '{image.path}': "):
        reason = reason.removeprefix(said)
    return ImageError(image.path, f"it is damaged, or QEMU can't read it: {reason}")


def explain(
    said: str,
    *,
    command: tuple[str, ...],
    status: int,
    source: Image,
    target: Image | None,
    work: int = 0,
) -> NoReturn:
    """Raise the error that the failure means, judging by strerror(3)'s texts.

    The file that the message is about decides: a source can only be at fault itself, or
    its storage fails.
    """
    if status == MISSING:
        raise CommandError(command, MISSING, NOT_INSTALLED)
    subject = _subject(said, source=source, target=target)
    images = [source, target] if target else [source]
    text = _with_paths(said, images)
    failed = CommandError(command, status, f"{images[-1].path}: {text}")
    if status in _STOPPED or (subject is None and target is None):
        raise failed
    if subject is source:
        if _FAILED.search(text):
            _read_through(source)
        raise damage(source, reason=text.strip()) from failed
    assert target is not None
    _explain_target(failed, target=target, work=work, certain=subject is target)


def _with_paths(said: str, images: Sequence[Image]) -> str:
    """Return what qemu-img said, with paths in place of all names that we gave it.

    QEMU repeats a name as it was given, or spells the nodes in its own order.
    """
    paths = {str(fd): str(image.path) for image in images for fd in image.fds}
    first = str(images[0].path)

    def named(text: str) -> str:
        fds = [fd for fd in _OUR_NAME.findall(text) if fd in paths]
        return paths[fds[0]] if fds else first

    while (start := said.find("json:{")) >= 0:
        end = _closed(said, start + len("json:"))
        said = said[:start] + named(said[start:end]) + said[end:]
    return _OUR_NAME.sub(lambda match: paths.get(match[1], first), said)


def _closed(text: str, start: int) -> int:
    """Return where the object that starts there ends; QEMU cuts off a long name."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except ValueError:
        quote = text.find("'", start)
        return quote if quote >= 0 else len(text)


def _subject(said: str, *, source: Image, target: Image | None) -> Image | None:
    """Return the image that a message is about; None if it doesn't say."""
    if _READING.search(said):
        return source
    if _WRITING.search(said):
        return target
    named = {int(fd) for fd in _OUR_NAME.findall(said)}
    images = [image for image in (source, target) if image and named & set(image.fds)]
    return images[0] if images else None


def _explain_target(
    failed: CommandError, *, target: Image, work: int, certain: bool
) -> NoReturn:
    """Raise the error of a file that could not be written.

    :param certain: whether qemu-img said that it is about this file.
    """
    if _NO_SPACE.search(failed.reason):
        free = free_bytes(target.fd)
        raise NotEnoughSpace(target.path, work, free, failed.reason) from failed
    if _UNSUPPORTED.search(failed.reason):
        raise Unsupported(target.path, failed.reason) from failed
    if _FAILED.search(failed.reason):
        raise StorageFailed(target.path, failed.reason) from failed
    if certain:
        raise Error(failed.reason) from failed
    raise failed


def _read_through(image: Image) -> None:
    """Read the file ourselves, to tell a fault of the storage from one of the image.

    :raises StorageFailed: when it can't be read.
    """
    with explained(fd=image.fd, path=image.path, needed=0, action="read"):
        for offset, length in sparse.data(image.fd):
            for done in range(offset, offset + length, _CHUNK):
                os.pread(image.fd, min(_CHUNK, offset + length - done), done)
