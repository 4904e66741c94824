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
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from allocpolicy.errors import (
    CommandError,
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
NOT_INSTALLED = "it is not installed; bindep.txt lists the system packages"
MEMORY_LIMIT = 4 << 30
OUTPUT_SLACK = 64 << 20
CPU_SECONDS = 60
CPU_BYTES_PER_SECOND = 4 << 20  # slower than any machine decompresses
MESSAGE_LIMIT = 64 << 10
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_UNSUPPORTED = re.compile(r"Operation not supported|File too large")
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
# QEMU's words for a malformed compressed cluster, and for EIO of the host.
_UNREADABLE = re.compile(r"error while reading at byte \d+: Input/output error")
_FAILED = re.compile(r"Input/output error|Structure needs cleaning")
_CHUNK = 4 << 20
# Otherwise QEMU computes the size from the geometry, which is less, unless it knows the
# program that made the image (vpc_open of its block/vpc.c).
_OPTIONS = {"vpc": {"force_size_calc": "current_size"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An open image file, its explicit format, and its path for messages.

    ``part`` is the (offset, length) of the guest's bytes that are meant; None for all.
    """

    fd: int
    format: str
    path: Path
    part: tuple[int, int] | None = None

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
        name = f"/proc/self/fd/{self.fd}"
        file = {"driver": "file", "filename": name, **common}
        nodes = {"driver": self.format, "file": file, **common, "backing": None}
        nodes |= _OPTIONS.get(self.format, {})
        if self.part:
            offset, size = self.part
            nodes = {"driver": "raw", "offset": offset, "size": size, "file": nodes}
        return "json:" + json.dumps({**nodes, **common})


def copy_into(source: Image, target: Image, *, progress: Progress) -> None:
    """Copy the guest-visible bytes of the source into an existing, all-zero target.

    ``-n --target-is-zero`` (QEMU 5.0) skips zero regions: what the target has reserved
    or mapped stays reserved or mapped; a raw target stays sparse.

    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    :raises ImageError: when the source can't be read, as where its data is malformed.
    :raises CommandError: when qemu-img fails otherwise.
    """
    # -O: without it, qemu-img would take the target's format to be raw.
    arguments = ["convert", "-p", "-n", "--target-is-zero", "-O", target.format]
    arguments += [source.source, target.target]
    size = os.fstat(target.fd).st_size
    start, length = source.part or (0, size)

    def advanced(*, done: int, total: int) -> None:
        progress(done=start + done, total=size)

    images = [source, target]
    _run(arguments, images=images, work=length, output=size, progress=advanced)


def check(image: Image, *, virtual_size: int) -> None:
    """Check that the image's tables are sound.

    :param virtual_size: of the image; bounds the time.
    :raises CommandError: when they are not, or qemu-img can't check the format.
    """
    arguments = ["check", "-q", image.source]
    _run(arguments, images=[image], work=virtual_size, output=0)


def measure(image: Image, *, format: str, virtual_size: int) -> int:
    """Return the file size, in bytes, that the image's data needs in another format.

    :param virtual_size: of the image; bounds the time.
    :raises CommandError: when qemu-img fails.
    """
    arguments = ["measure", "--output=json", "-O", format]
    command = [PROGRAM, *arguments, image.source]
    try:
        finished = subprocess.run(
            [*_limits(work=virtual_size, output=0), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            pass_fds=[image.fd],
        )
        required: int = json.loads(finished.stdout)["required"]
    except FileNotFoundError as error:
        raise CommandError(("prlimit",), 127, NOT_INSTALLED) from error
    except subprocess.CalledProcessError as error:
        said = _with_paths(error.stderr, [image]) or "it said nothing"
        reason = NOT_INSTALLED if error.returncode == 127 else f"{image.path}: {said}"
        raise CommandError(tuple(command), error.returncode, reason) from error
    return required


def _run(
    arguments: Sequence[str],
    *,
    images: Sequence[Image],
    work: int,
    output: int,
    progress: Progress | None = None,
) -> None:
    """Run qemu-img; ``work`` bytes bound its time, ``output`` bytes its files."""
    command = [*_limits(work=work, output=output), PROGRAM, *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            pass_fds=[image.fd for image in images],
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
        said = f"{images[-1].path}: {_with_paths(stderr, images)}"
        failed = CommandError((PROGRAM, *arguments), process.returncode, said)
        _explain(failed, source=images[0], target=images[-1], work=work)


def _with_paths(said: str, images: Sequence[Image]) -> str:
    """Return what qemu-img said, with paths in place of the names that we gave it."""
    for image in images:
        for name in (image.source, image.target, f"/proc/self/fd/{image.fd}"):
            said = said.replace(name, str(image.path))
    return said


def _limits(*, work: int, output: int) -> list[str]:
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
    return ImageError(image.path, f"it is damaged, or QEMU can't read it: {reason}")


def _explain(
    failed: CommandError, *, source: Image, target: Image, work: int
) -> NoReturn:
    """Raise the error that the failure means, judging by strerror(3)'s texts."""
    if failed.status == 127:
        raise CommandError(failed.command, 127, NOT_INSTALLED) from failed
    if _NO_SPACE.search(failed.reason):
        free = free_bytes(target.fd)
        raise NotEnoughSpace(target.path, work, free, failed.reason) from failed
    if _UNSUPPORTED.search(failed.reason):
        raise Unsupported(target.path, failed.reason) from failed
    if said := _UNREADABLE.search(failed.reason):
        _read_through(source)
        raise damage(source, reason=said[0]) from failed
    if _FAILED.search(failed.reason):
        _read_through(source)
        raise StorageFailed(target.path, failed.reason) from failed
    raise failed


def _read_through(image: Image) -> None:
    """Read the file ourselves, to tell a fault of the storage from one of the image.

    :raises StorageFailed: when it can't be read.
    """
    with explained(fd=image.fd, path=image.path, needed=0, action="read"):
        for offset, length in sparse.data(image.fd):
            for done in range(offset, offset + length, _CHUNK):
                os.pread(image.fd, min(_CHUNK, offset + length - done), done)
