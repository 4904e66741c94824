"""A copy of this machine to install packages in, thrown away afterwards.

An overlay over its root, in memory and in a mount namespace of its own: what is
installed there is gone with the namespace, whatever ends the test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# No service is started there: invoke-rc.d asks policy-rc.d.
_MADE = """
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
for one in proc sys dev; do mount --rbind /$one root/$one; done
# overlayfs does not promise what becomes of what others change below it, as the locks.
mount -t tmpfs -o mode=755 tmpfs root/run
mkdir -m 1777 root/run/lock
printf '#!/bin/sh\\nexit 101\\n' >root/usr/sbin/policy-rc.d
chmod 755 root/usr/sbin/policy-rc.d
rm -f root/var/lib/man-db/auto-update  # no index of all pages at each installation
echo made
exec cat
"""
# Not the PATH of whoever runs the tests, in which other Pythons may come first.
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    *("HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"),
)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The copy of the machine."""

    inside: tuple[str, ...]  # the beginning of a command that runs there

    def run(self, *command: str, cwd: str = "/") -> str:
        """Run a command there; return all that it prints."""
        entered = ("env", "--ignore-environment", f"--chdir={cwd}", *_ENVIRONMENT)
        done = subprocess.run(
            (*self.inside, *entered, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            encoding="utf-8",
        )
        printed: str = done.stdout
        assert done.returncode == 0, f"{command}: {printed[-8000:]}"
        return printed

    def put(self, source: Path, *, into: str) -> None:
        """Copy what is in a directory of the machine into one there."""
        self.run("mkdir", "-p", into)
        pack = ("tar", "--create", "--directory", source, ".")
        unpack = ("tar", "--extract", "--no-same-owner", "--directory", into)
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
            subprocess.run((*self.inside, *unpack), stdin=packed.stdout, check=True)


@contextmanager
def box(place: Path) -> Iterator[Box]:
    """Yield a copy of the machine; it is mounted on a directory, in its namespace."""
    command = ["unshare", "--mount", "--propagation", "private"]
    with subprocess.Popen(
        [*command, "sh", "-euc", _MADE, "sh", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "made\n"
        namespace = f"--mount=/proc/{holder.pid}/ns/mnt"
        yield Box(inside=("nsenter", namespace, "chroot", str(place / "root")))
        holder.stdin.close()  # it ends, and its namespace with it
