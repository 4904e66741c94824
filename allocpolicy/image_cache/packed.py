"""The bytes of a disk image that is compressed, or in an OVA, as a stream.

The programs that decompress run as qemu-img does: on an inherited descriptor, and under
limits of time and memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

from allocpolicy import qemu_failure, qemu_img
from allocpolicy.errors import CommandError, ImageError
from allocpolicy.foreign import ova
from allocpolicy.images.base_image import SourceImage

_PROGRAMS = {
    "gzip": ("gzip", "-dcq"),
    "xz": ("xz", "-dcq"),
    "zstd": ("zstd", "-dcq", "--long=31"),  # a window of 2 GiB, the largest
    "bzip2": ("bzip2", "-dcq"),
}
# Killed from outside or out of time, or not installed: not the image's fault.
_NOT_THE_IMAGE = frozenset({127, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL})
_CHUNK = 1 << 20


@contextlib.contextmanager
def stream(source: SourceImage, *, limit: int) -> Iterator[Iterator[bytes]]:
    """Yield the chunks of the image that is packed in the source.

    :param limit: the most bytes that are to come of it.
    :raises ImageError: (from the chunks) when it is damaged, or more comes out of it.
    :raises CommandError: when the program that decompresses is missing.
    """
    if source.format == "ova":
        yield _limited(_member(source), source=source, limit=limit)
        return
    with _running(source, limit=limit) as process:
        chunks = _output(process, source=source)
        yield _limited(chunks, source=source, limit=limit)


def _limited(
    chunks: Iterator[bytes], *, source: SourceImage, limit: int
) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        if done > limit:
            reason = (
                f"what is packed in it has more than {limit} bytes, too many for the"
                " disk, or for so small a file; if that is right, give the disk's"
                " --size, or unpack it first"
            )
            raise ImageError(source.path, reason)
        yield chunk


def _member(source: SourceImage) -> Iterator[bytes]:
    """Yield the disk in an OVA."""
    disk = ova.disk(source.fd, path=source.path)
    at, end = disk.offset, disk.offset + disk.size
    while at < end:
        chunk = os.pread(source.fd, min(_CHUNK, end - at), at)
        if not chunk:
            raise ImageError(source.path, "it became shorter while it was read")
        at = os.lseek(source.fd, at + len(chunk), os.SEEK_SET)  # for the progress
        yield chunk


@contextlib.contextmanager
def _running(source: SourceImage, *, limit: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program; it is killed when the body ends before it does."""
    os.lseek(source.fd, 0, os.SEEK_SET)
    try:
        process = subprocess.Popen(
            [*qemu_img.limits(work=limit, output=0), *_PROGRAMS[source.format]],
            stdin=source.fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise CommandError(("prlimit",), 127, qemu_failure.NOT_INSTALLED) from error
    with process:
        try:
            yield process
        finally:
            process.kill()


def _output(
    process: subprocess.Popen[bytes], *, source: SourceImage
) -> Iterator[bytes]:
    assert process.stdout is not None and process.stderr is not None
    while chunk := process.stdout.read(_CHUNK):
        yield chunk
    said = process.stderr.read(qemu_img.MESSAGE_LIMIT).decode(errors="replace")
    status = qemu_img.status_of(process)
    if status in _NOT_THE_IMAGE:
        reason = qemu_failure.NOT_INSTALLED if status == 127 else said
        raise CommandError(_PROGRAMS[source.format], status, reason)
    if status:
        reason = " ".join(said.split()) or f"exit status {status}"
        what = f"it is damaged or cut short: {source.format} can't decompress it"
        raise ImageError(source.path, f"{what}: {reason:.200}")
