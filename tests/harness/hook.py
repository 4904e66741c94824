"""Running the hook as libvirt does: its arguments, the XML, its three descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from allocpolicy.testing import filesystems
from tests.harness.cli import Finished
from tests.harness.patience import PATIENCE

PREPARE = ("prepare", "begin", "-")
MIGRATE = ("migrate", "begin", "-")
RESTORE = ("restore", "begin", "-")
NAME = "web"

_CODE = (
    "import sys; sys.path += {paths}; from allocpolicy.libvirt.entry import run;"
    " {before}; run()"
)
# Its own /dev, with a socket in place of syslog's, and no journal; strace would need to
# be installed.
_LOGGING = """
mount -t tmpfs none "$0" && mkdir "$0/dev" && mount --rbind /dev "$0/dev" &&
mount -t tmpfs none /dev && cd /dev &&
for name in null zero random urandom log; do touch $name; done &&
for name in null zero random urandom
do mount --bind "$0/dev/$name" $name || exit; done &&
mount --bind "$1" log && shift && cd / &&
{ ! [ -d /run/systemd ] || mount -t tmpfs none /run/systemd; } && exec "$@"
"""


def end_of(path: Path) -> str:
    """Return what is left of a path in a line that would be too long with all of it."""
    return str(path)[-100:]


def command(
    operation: Sequence[str],
    *,
    name: str = NAME,
    before: str = "pass",
    paths: Sequence[Path] = (),
) -> list[str]:
    """Return the command that the hook's file ends with.

    :param before: a statement of Python's that is executed first.
    :param paths: where else Python finds modules and strategies.
    """
    code = _CODE.format(paths=list(map(str, paths)), before=before)
    return [sys.executable, "-I", "-c", code, name, *operation]


def environment(**variables: str) -> dict[str, str]:
    """Return what libvirt passes on, and the variables."""
    return {
        "LC_ALL": "C",
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        **{k: v for k, v in os.environ.items() if k.startswith("COV")},
        **variables,
    }


def run(
    xml: bytes,
    operation: Sequence[str] = PREPARE,
    *,
    before: str = "pass",
    paths: Sequence[Path] = (),
    prefix: Sequence[str] = (),
    tells: bool = True,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Finished:
    """Run the hook to its end, which is when nobody has its descriptors any more.

    :param before: a statement of Python's that is executed first.
    :param paths: where else Python finds modules and strategies.
    :param prefix: a command that starts the hook.
    :param variables: of the environment, beside those that libvirt passes on.
    :param tells: whether its line can be seen; it has one if the VM must not start.
    """
    finished = subprocess.run(
        [*prefix, *command(operation, before=before, paths=paths)],
        input=xml,
        capture_output=True,
        env=environment(**variables),
        cwd="/",
        check=False,
        timeout=PATIENCE,
    )
    said = finished.stderr.decode()
    assert finished.stdout == b""
    assert len(said) <= 301
    assert said.count("\n") <= 1
    assert said.rstrip("\n").isprintable()
    assert not tells or bool(said) == bool(finished.returncode), said
    return Finished(status=finished.returncode, stdout="", stderr=said)


class Syslog:
    """What syslog is told by a hook that is run with the `prefix`."""

    def __init__(self, directory: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{directory}/log")
        self._told: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        mount = Path(directory, "mount")
        mount.mkdir()
        shell = ("sh", "-c", _LOGGING, str(mount), f"{directory}/log")
        self.prefix = ("unshare", "--mount", *shell)

    def _read(self) -> None:
        while line := self._socket.recv(65536).decode():
            self._told.append(line.partition("]: ")[2])

    def lines(self) -> list[str]:
        """Return the lines, without priority, date and process; there come no more."""
        if self._reader.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", self._socket.getsockname())
            self._reader.join()
        self._socket.close()
        return self._told


@contextmanager
def syslog() -> Iterator[Syslog]:
    """Yield a place that a hook takes for syslog."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("another /dev takes root")
    filesystems.require_program("unshare")
    with tempfile.TemporaryDirectory() as directory:
        log = Syslog(directory)
        try:
            yield log
        finally:
            log.lines()
