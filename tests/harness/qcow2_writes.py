"""What a guest does to a qcow2 disk, drawn by hypothesis and done by qemu-io."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

SECTOR = 512
KINDS = ("write", "write -c", "write -z", "write -zu", "discard")


@st.composite
def guest_commands(
    draw: st.DrawFn,
    *,
    virtual_size: int,
    cluster_size: int,
    kinds: tuple[str, ...] = KINDS,
    most: int = 8,
) -> list[str]:
    """Draw commands of qemu-io; compressed writes are of whole clusters."""
    commands = []
    for _ in range(draw(st.integers(0, most))):
        kind = draw(st.sampled_from(kinds))
        whole = kind == "write -c" or draw(st.booleans())
        unit = cluster_size if whole else SECTOR
        first = draw(st.integers(0, (virtual_size - 1) // unit))
        length = draw(st.integers(1, 40 if whole else 100)) * unit
        length = min(length, virtual_size - first * unit)
        has_pattern = not kind.startswith(("write -z", "discard"))
        pattern = f"-P {draw(st.integers(1, 255))} " if has_pattern else ""
        commands.append(f"{kind} {pattern}{first * unit} {length}")
    return commands


def qemu_io(disk: Path, commands: list[str], *, discard: str) -> None:
    """Run the commands, with discard=unmap or ignore.

    Compressed writes have processes of their own: QEMU 7.2 remembers where the next
    compressed cluster goes, also when what it shares a host cluster with was freed and
    the host cluster given to other data. QEMU refuses them where a cluster is there.
    """
    for compressed, some in itertools.groupby(commands, lambda it: "write -c" in it):
        command = ["qemu-io", "-f", "qcow2", "-d", discard, str(disk)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, input="\n".join(some)
        )
        said = done.stdout + done.stderr
        assert compressed or ("failed" not in said and not done.returncode), said


class Running:
    """A qemu-io that has done some commands, holds the disk open, and stands still."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def finish(self) -> None:
        """Let it do the other commands, and end as QEMU does."""
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        assert "failed" not in said, said[:1000]
        assert self._process.wait() == 0


@contextmanager
def running(
    disk: Path, commands: list[str], *, then: list[str], discard: str
) -> Iterator[Running]:
    """Run the commands and stop there; what it still has in memory isn't written.

    Without `Running.finish`, which does what is ``then`` to be done, it is killed.
    """
    command = ["qemu-io", "-f", "qcow2", "-d", discard, str(disk)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            print(
                *commands,
                f"sigraise {signal.SIGSTOP:d}",
                *then,
                sep="\n",
                file=process.stdin,
            )
            process.stdin.close()  # QEMU waits for more where a pipe stays open
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            yield Running(process)
        finally:
            process.kill()


def kill_while_writing(disk: Path, commands: list[str], *, discard: str) -> None:
    """Do the commands in a qemu-io that is killed: the disk is not closed."""
    with running(disk, commands, then=[], discard=discard):
        pass
