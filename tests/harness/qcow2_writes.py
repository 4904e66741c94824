"""What a guest does to a qcow2 disk, drawn by hypothesis and done by qemu-io."""

from __future__ import annotations

import itertools
import subprocess
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
