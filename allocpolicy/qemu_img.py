"""qemu-img, one function per subcommand, on open descriptors and under limits.

It gets images as ``/proc/self/fd/N`` of inherited descriptors, and opens the very files
that were checked. Each image is given as explicit block nodes (QEMU's
qapi/block-core.json, BlockdevOptions): the driver of the format, on the driver of
files, with no backing file whatever the header says. An external data file can't be
excluded so (QEMU 7.2 opens it although ``data-file`` is null): nobody may write to a
qcow2 while QEMU opens it. It runs under prlimit(1) (CPU time, memory, output size) and
setpriv(1) (killed when this process ends).
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from allocpolicy.errors import (
    CommandError,
    Error,
    ImageError,
    NotEnoughSpace,
    StorageFailed,
    Unsupported,
)
from allocpolicy.progress import Progress
from allocpolicy.storage import sparse
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes

PROGRAM = "qemu-img"
_CORRUPT, _LEAKS = 2, 3  # of qemu-img check
MISSING = 127  # the exit status of a program that isn't installed
NOT_INSTALLED = "it is not installed; bindep.txt lists the system packages"
MEMORY_LIMIT = 4 << 30
OUTPUT_SLACK = 64 << 20
CPU_SECONDS = 60
CPU_BYTES_PER_SECOND = 4 << 20  # slower than any machine decompresses
MESSAGE_LIMIT = 64 << 10
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
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
# Otherwise QEMU computes the size from the geometry, which is less, unless it knows the
# program that made the image (vpc_open of its block/vpc.c).
_OPTIONS = {"vpc": {"force_size_calc": "current_size"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An open image file, its explicit format, and its path for messages.

    ``part`` is the (offset, length) of the guest's bytes that are meant; None for all.
    ``overlay`` is an open qcow2 of the file's size, which holds what was written in the
    file's place. ``others`` are open files that the image names by ``/proc/self/fd/N``.
    """

    fd: int
    format: str
    path: Path
    part: tuple[int, int] | None = None
    overlay: int | None = None
    others: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """Return the block nodes through which qemu-img reads it, as a file name."""
        return self._nodes({"read-only": True})

    @property
    def target(self) -> str:
        """Return the block nodes through which qemu-img writes, as a file name."""
        return self._nodes({})

    def _nodes(self, common: dict[str, object]) -> str:
        """Return the nodes; only in JSON is there a null, for no backing file."""
        file = {**self._file(common), **common}
        nodes = {"driver": self.format, "file": file, **common, "backing": None}
        nodes |= _OPTIONS.get(self.format, {})
        if self.part:
            offset, size = self.part
            nodes = {"driver": "raw", "offset": offset, "size": size, "file": nodes}
        return "json:" + json.dumps({**nodes, **common})

    def _file(self, common: dict[str, object]) -> dict[str, object]:
        if self.overlay is None:
            return _file(self.fd)
        below = {"driver": "raw", "file": _file(self.fd, {"read-only": True})}
        above = _file(self.overlay, common)
        return {"driver": "qcow2", "file": above, "backing": below}

    @property
    def fds(self) -> list[int]:
        """Return the descriptors that qemu-img inherits."""
        overlay = [] if self.overlay is None else [self.overlay]
        return [self.fd, *overlay, *self.others]


def _file(fd: int, common: Mapping[str, object] | None = None) -> dict[str, object]:
    return {"driver": "file", "filename": f"/proc/self/fd/{fd}", **(common or {})}


def copy_into(source: Image, target: Image, *, progress: Progress) -> None:
    """Copy the guest-visible bytes of the source into an existing, all-zero target.

    ``-n --target-is-zero`` (QEMU 5.0) skips zero regions: what the target has reserved
    or mapped stays reserved or mapped; a raw target stays sparse.

    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    :raises ImageError: when the source can't be read, as where its data is malformed.
    :raises StorageFailed: when either image's storage fails.
    :raises Unsupported: when the target's storage can't do what qemu-img needs.
    :raises CommandError: when qemu-img fails otherwise.
    """
    # -O: without it, qemu-img would take the target's format to be raw.
    arguments = ["convert", "-p", "-n", "--target-is-zero", "-O", target.format]
    arguments += [source.source, target.target]
    size = os.fstat(target.fd).st_size
    start, length = source.part or (0, size)

    def advanced(*, done: int, total: int) -> None:
        progress(done=start + done, total=size)

    _run(
        arguments,
        source=source,
        target=target,
        work=length,
        output=size,
        progress=advanced,
    )


def check(image: Image, *, virtual_size: int) -> None:
    """Check that the image's tables are sound.

    :param virtual_size: of the image; bounds the time.
    :raises ImageError: when QEMU can't open it.
    :raises CommandError: when they are not, or qemu-img can't check the format.
    """
    _run(["check", "-q", image.source], source=image, work=virtual_size)


def replay(image: Image, *, virtual_size: int) -> None:
    """Let QEMU replay the log of a vhdx, into the overlay.

    It does so when it opens an image for writing (vhdx_parse_log of its
    block/vhdx-log.c).

    :param virtual_size: of the image; bounds the time.
    :raises ImageError: when the log is damaged.
    :raises CommandError: when qemu-img fails otherwise.
    """
    assert image.overlay is not None
    size = os.fstat(image.fd).st_size
    arguments = ["check", "-q", "-r", "all", image.target]
    _run(arguments, source=image, work=virtual_size, output=size)


def check_served(socket: int, *, path: Path, virtual_size: int) -> None:
    """Check the tables of the qcow2 that an NBD server gives; clusters may be leaked.

    :raises ImageError: when they are not sound.
    :raises CommandError: when qemu-img fails otherwise.
    """
    image = Image(fd=socket, format="qcow2", path=path)
    arguments = ["check", "-q", _served(socket, backing=None)]
    try:
        _run(arguments, source=image, work=virtual_size)
    except CommandError as error:
        if error.status == _LEAKS:
            return
        if error.status == _CORRUPT:
            raise damage(image, reason="see qemu-img check") from error
        raise


def _served(socket: int, *, backing: dict[str, object] | None) -> str:
    """Return the block nodes of a qcow2 that an NBD server gives, as a file name."""
    file = {"driver": "nbd", "server": {"type": "fd", "str": str(socket)}}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": backing})


def resize(
    socket: int, *, path: Path, virtual_size: int, mapped: bool, backing_size: int
) -> None:
    """Grow the qcow2 that an NBD server gives on a connected socket.

    :param path: the image's, for messages.
    :param mapped: map the new clusters (preallocation=metadata).
    :param backing_size: of its backing file, which isn't opened: what it has beyond the
        old size must not show. 0 without one.
    :raises CommandError: when qemu-img fails.
    """
    how = ["--preallocation=metadata"] if mapped else []
    with open(os.memfd_create("backing"), "wb") as backing:
        backing.truncate(backing_size)
        below_fd = backing.fileno()
        opened = {"driver": "file", "filename": f"/proc/self/fd/{below_fd}"}
        below = {"driver": "raw", "read-only": True, "file": opened}
        images = [Image(fd=fd, format="raw", path=path) for fd in (socket, below_fd)]
        name = _served(socket, backing=below if backing_size else None)
        arguments = ["resize", "-q", *how, name, str(virtual_size)]
        _run(arguments, source=images[0], target=images[1], work=virtual_size)


def measure(image: Image, *, format: str, virtual_size: int) -> int:
    """Return the file size, in bytes, that the image's data needs in another format.

    :param virtual_size: of the image; bounds the time.
    :raises ImageError: when QEMU can't open the image.
    :raises CommandError: when qemu-img fails otherwise.
    """
    arguments = ["measure", "--output=json", "-O", format]
    command = [PROGRAM, *arguments, image.source]
    try:
        finished = subprocess.run(
            [*limits(work=virtual_size, output=0), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            pass_fds=image.fds,
        )
        required: int = json.loads(finished.stdout)["required"]
    except FileNotFoundError as error:
        raise CommandError(("prlimit",), 127, NOT_INSTALLED) from error
    except subprocess.CalledProcessError as error:
        _explain(
            error.stderr,
            command=tuple(command),
            status=error.returncode,
            source=image,
            target=None,
        )
    return required


def _run(
    arguments: Sequence[str],
    *,
    source: Image,
    target: Image | None = None,
    work: int,
    output: int = 0,
    progress: Progress | None = None,
) -> None:
    """Run qemu-img; ``work`` bytes bound its time, ``output`` bytes its files."""
    command = [*limits(work=work, output=output), PROGRAM, *arguments]
    images = [source, target] if target else [source]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            pass_fds=[fd for image in images for fd in image.fds],
        )
    except FileNotFoundError as error:
        raise CommandError((command[0],), 127, NOT_INSTALLED) from error
    try:
        stderr = _follow(process, work, progress)
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
    if process.returncode:
        _explain(
            stderr,
            command=(PROGRAM, *arguments),
            status=process.returncode,
            source=source,
            target=target,
            work=work,
        )


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


def limits(*, work: int, output: int) -> list[str]:
    """Return the command that starts another one under limits.

    :param work: the bytes that bound its time.
    :param output: the bytes that bound the files that it writes.
    """
    seconds = CPU_SECONDS + work // CPU_BYTES_PER_SECOND
    limits = {
        "cpu": _at_most(seconds, inherited=resource.RLIMIT_CPU),
        "as": _at_most(MEMORY_LIMIT, inherited=resource.RLIMIT_AS),
        "fsize": _at_most(OUTPUT_SLACK + output, inherited=resource.RLIMIT_FSIZE),
        "core": 0,
    }
    options = [f"--{name}={limit}" for name, limit in limits.items()]
    return ["prlimit", *options, "--", "setpriv", "--pdeathsig", "KILL", "--"]


def _at_most(limit: int, *, inherited: int) -> int:
    """Return the limit, or our own hard limit if lower: only root may raise that."""
    _, hard = resource.getrlimit(inherited)
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _follow(
    process: subprocess.Popen[bytes], total: int, progress: Progress | None
) -> str:
    """Read both pipes to their ends, keeping a bounded tail of stderr."""
    assert process.stdout is not None and process.stderr is not None
    stderr = b""
    with selectors.DefaultSelector() as selector:
        streams: list[IO[bytes]] = [process.stdout, process.stderr]
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, MESSAGE_LIMIT)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    stderr = (stderr + chunk)[-MESSAGE_LIMIT:]
                elif progress and (percents := _PERCENT.findall(chunk)):
                    progress(done=int(float(percents[-1]) * total / 100), total=total)
    for stream in streams:
        stream.close()
    return stderr.decode(errors="replace")


def damage(image: Image, *, reason: str) -> ImageError:
    """Return the error of an image that qemu-img rejects."""
    for said in (f"{image.path}: ", f"{PROGRAM}: ", f"Could not open '{image.path}': "):
        reason = reason.removeprefix(said)
    return ImageError(image.path, f"it is damaged, or QEMU can't read it: {reason}")


def _explain(
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
    if status == 127:
        raise CommandError(command, 127, NOT_INSTALLED)
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
