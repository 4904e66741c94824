"""Being root without some of its capabilities, as in containers and under AppArmor."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness import filesystems

OWNER = 12345  # nobody's on this host, so it has no account


def without(*capabilities: str, command: list[str]) -> list[str]:
    """Return the command line that runs a program as root without capabilities.

    :param capabilities: as setpriv(1) has them: ``lease``, ``setuid``.
    """
    if os.geteuid() != 0:
        raise filesystems.Unavailable("capabilities are root's")
    if not capabilities:
        return command
    program = filesystems.require_program("setpriv")
    dropped = ",".join(f"-{one}" for one in capabilities)
    return [program, f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]


@contextmanager
def user_namespace(*known: int) -> Iterator[list[str]]:
    """Yield what to put before a command, so that it runs in a user namespace.

    :param known: the users that have the same ID in it.
    """
    if os.geteuid() != 0 or shutil.which("nsenter") is None:
        raise filesystems.Unavailable("a user namespace with several users takes root")
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline() != b"\n":
            raise filesystems.Unavailable("there are no user namespaces")
        try:
            for map in ("uid_map", "gid_map"):
                with open(f"/proc/{process.pid}/{map}", "w") as file:
                    file.write("".join(f"{one} {one} 1\n" for one in known))
            yield ["nsenter", f"--user=/proc/{process.pid}/ns/user"]
        finally:
            process.stdin.close()
