"""A loop device on what qemu-storage-daemon makes of a file: it records, or is slow.

The daemon's FUSE export is a file, and a loop device on it is what is mounted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.filesystems import Unavailable, require_program, run


@contextmanager
def exported_device(
    export: Path, *, node: str, options: Sequence[str]
) -> Iterator[Path]:
    """Yield a loop device on a node that these options of the daemon make.

    ``export`` is the file to be made for it.

    :raises Unavailable: where the daemon has no FUSE export, or the host no FUSE.
    """
    export.write_bytes(b"")
    with _exported(export, node=node, options=options):
        losetup = require_program("losetup")
        attached = subprocess.run(
            [losetup, "--find", "--show", export],
            capture_output=True,
            text=True,
            check=False,
        )
        if attached.returncode:
            raise Unavailable(attached.stderr)
        device = Path(attached.stdout.strip())
        try:
            yield device
        finally:
            run(losetup, "--detach", device)


@contextmanager
def _exported(export: Path, *, node: str, options: Sequence[str]) -> Iterator[None]:
    daemon = subprocess.Popen(
        [
            require_program("qemu-storage-daemon"),
            *options,
            "--export",
            f"fuse,id=e,node-name={node},writable=on,mountpoint={export}",
            *("--chardev", "stdio,id=c", "--monitor", "chardev=c"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdin and daemon.stdout and daemon.stderr
    with daemon.stdin, daemon.stdout, daemon.stderr:
        try:
            if not daemon.stdout.readline():  # its greeting: the export is there
                raise Unavailable(daemon.stderr.read())
            yield
        finally:
            daemon.terminate()
            daemon.wait()


@contextmanager
def slow_device(image: Path, *, bytes_per_second: int) -> Iterator[Path]:
    """Yield a loop device on an image that is read no faster than this.

    :raises Unavailable: as `exported_device` does.
    """
    limit = f"throttle-group,id=limit,limits.bps-read={bytes_per_second}"
    options = (
        *("--object", limit),
        *("--blockdev", f"driver=file,node-name=image,filename={image}"),
        *(
            "--blockdev",
            "driver=throttle,node-name=slow,file=image,throttle-group=limit",
        ),
    )
    export = image.with_suffix(".export")
    with exported_device(export, node="slow", options=options) as device:
        yield device
