"""The owner of images and directories that root uses, who does what he may.

A qemu-img that is found first runs what the owner wants, as nobody, around the real
one: the worst moments, without a race. The owner doesn't wait for leases.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import filesystems, ordinary_user

UID = ordinary_user.UID


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the owner does around a subcommand of qemu-img.

    ``directory`` is public; ``reached`` is how he comes to the files that are
    ``inside`` a directory.
    """

    directory: Path
    inside: Path
    reached: Path

    def around(self, subcommand: str, *, before: str = ":", after: str = ":") -> str:
        """Return a PATH on which qemu-img has the owner's commands around it."""
        real = shutil.which("qemu-img")
        if os.geteuid() != 0 or real is None:
            raise filesystems.Unavailable("this takes root and qemu-img")
        program = self.directory / "qemu-img"
        act = shlex.join(ordinary_user.command("sh", "-c"))
        program.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = {subcommand} ] || exec {real} "$@"\n'
            f"{act} {shlex.quote(before)} 2>/dev/null\n"
            f'{real} "$@"\nstatus=$?\n'
            f"{act} {shlex.quote(after)} 2>/dev/null\n"
            f"touch {shlex.quote(str(self.acted))}\n"
            "exit $status\n"
        )
        program.chmod(0o755)
        return os.pathsep.join((str(self.directory), os.environ.get("PATH", "")))

    def does(self, script: str, *, directory: Path) -> None:
        """Let him run a shell script in the directory, which must work."""
        subprocess.run(
            ordinary_user.command("sh", "-ec", script),
            check=True,
            cwd=self.reached / directory.relative_to(self.inside),
        )

    @contextmanager
    def leasing(self, path: Path) -> Iterator[None]:
        """Let him hold a write lease on a file of his."""
        program = (
            "import fcntl, os, signal, sys\n"
            "fd = os.open(sys.argv[1], os.O_RDWR)\n"
            "fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)\n"
            "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()\n"
        )
        way = self.reached / path.relative_to(self.inside)
        with subprocess.Popen(
            ordinary_user.command(sys.executable, "-c", program, way),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "held\n"
            try:
                yield
            finally:
                process.stdin.close()

    @property
    def acted(self) -> Path:
        """The file that is there once qemu-img ran."""
        return self.directory / "acted"

    def overwrites(self, path: Path, content: Path, *, offset: int = 0) -> str:
        """Return a command that writes a file's bytes over those of his file."""
        os.chown(path, ordinary_user.UID, ordinary_user.UID)
        path.chmod(0o644)
        place = f"seek={offset} oflag=seek_bytes,nonblock conv=notrunc bs=64K"
        return f"dd if={self._way_to(content)} of={self._way_to(path)} {place}"

    def redates(self, path: Path, like: Path) -> str:
        """Return a command that gives a file of his the dates of another."""
        return f"touch -r {self._way_to(like)} {self._way_to(path)}"

    def _way_to(self, path: Path) -> str:
        return shlex.quote(str(self.reached / path.relative_to(self.inside)))


@contextmanager
def owner(directory: Path) -> Iterator[Owner]:
    """Yield a user without rights, who reaches a test's directory by another way."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    directory.chmod(0o755)
    with ordinary_user.public_directory() as public:
        reached = public / "reached"
        reached.mkdir()
        filesystems.mount(
            "none", source=directory, mount_point=reached, options=["bind"]
        )
        try:
            yield Owner(directory=public, inside=directory, reached=reached)
        finally:
            filesystems.unmount(reached)
