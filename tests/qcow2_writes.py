"""What a guest does to a qcow2 disk, drawn by hypothesis and done by qemu-io."""

from __future__ import annotations

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

    QEMU refuses compressed writes to clusters that are there already.
    """
    command = ["qemu-io", "-f", "qcow2", "-d", discard, str(disk)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, input="\n".join(commands)
    )
    said = done.stdout + done.stderr
    compressed = sum("write -c" in command for command in commands)
    assert said.count("failed") <= compressed, said
    assert not done.returncode or compressed, said
