"""qemu-img, one function per subcommand, on open descriptors and under limits.

It gets images as ``/proc/self/fd/N`` of inherited descriptors, and opens the very files
that were checked, through explicit block nodes without a backing file. An external data
file can't be excluded so (QEMU 7.2 opens it although ``data-file`` is null): nobody may
write to a qcow2 while QEMU opens it. It runs under prlimit(1) (CPU time, memory, output
size) and setpriv(1) (killed when this process ends).
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from allocpolicy.errors import CommandError, WorkerLost
from allocpolicy.progress import Progress
from allocpolicy.qemu_failure import MISSING, NOT_INSTALLED, PROGRAM, damage, explain
from allocpolicy.qemu_nodes import Image, file_node, served

_CORRUPT, _LEAKS = 2, 3  # of qemu-img check
MEMORY_LIMIT = 4 << 30
OUTPUT_SLACK = 64 << 20
CPU_SECONDS = 60
CPU_BYTES_PER_SECOND = 4 << 20  # slower than any machine decompresses
_UNKNOWN = (
    "how a program ended that converts images is unknown: this process ignores SIGCHLD,"
    " or awaits children that aren't its own; have it do neither"
)
MESSAGE_LIMIT = 64 << 10
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")


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
    arguments = ["check", "-q", served(socket, backing=None)]
    try:
        _run(arguments, source=image, work=virtual_size)
    except CommandError as error:
        if error.status == _LEAKS:
            return
        if error.status == _CORRUPT:
            raise damage(image, reason="see qemu-img check") from error
        raise


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
        below = {"driver": "raw", "read-only": True, "file": file_node(below_fd)}
        images = [Image(fd=fd, format="raw", path=path) for fd in (socket, below_fd)]
        name = served(socket, backing=below if backing_size else None)
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
        raise CommandError(("prlimit",), MISSING, NOT_INSTALLED) from error
    except subprocess.CalledProcessError as error:
        explain(
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
        raise CommandError((command[0],), MISSING, NOT_INSTALLED) from error
    try:
        stderr = _follow(process, work, progress)
        status = status_of(process)
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
    if status:
        explain(
            stderr,
            command=(PROGRAM, *arguments),
            status=status,
            source=source,
            target=target,
            work=work,
        )


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Wait until a program has ended, and return its exit status.

    Where a program that uses us ignores SIGCHLD, or awaits any child, nobody knows it:
    `subprocess` has 0 then, and half a copy would be a whole one.

    :raises WorkerLost: when nobody knows it.
    """
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError as error:
        raise WorkerLost(_UNKNOWN) from error
    return process.wait()


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
