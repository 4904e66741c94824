"""A guest for tests: that of `allocpolicy bench`, with disks attached.

Machines are emulated (TCG): KVM may exist and hang.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.bench.guest import initramfs, kernel, machine
from allocpolicy.bench.guest.kernel import Kernel
from allocpolicy.bench.guest.programs import NoGuest
from tests.harness.filesystems import Unavailable
from tests.harness.patience import PATIENCE

DEFAULT_MODULES = (*initramfs.DISKS, "ext4")
COMMAND_LINE = initramfs.COMMAND_LINE
CONSOLE_TAIL = 30  # lines


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDisk:
    """A disk of a guest, which sees it as ``/dev/disk-<serial>`` (20 bytes at most).

    The names are those of QEMU's -drive options. An error of a write, ENOSPC too, goes
    to the guest; QEMU's default would stop the machine.
    """

    path: Path
    format: str
    serial: str
    discard: str = "ignore"
    detect_zeroes: str = "off"
    cache: str = "none"
    readonly: bool = False

    def options(self) -> list[str]:
        """Return the options of QEMU's command line that attach it."""
        drive = {
            "if": "none",
            "id": self.serial,
            "file": str(self.path).replace(",", ",,"),
            "format": self.format,
            "discard": self.discard,
            "detect-zeroes": self.detect_zeroes,
            "cache": self.cache,
            "readonly": "on" if self.readonly else "off",
        }
        device = {"drive": self.serial, "serial": self.serial, "werror": "report"}
        return [
            *("-drive", comma_separated(drive)),
            *("-device", f"virtio-blk-pci,{comma_separated(device)}"),
        ]


class GuestFailed(Exception):
    """The script in the guest failed; ``status`` is None when it did not end."""

    def __init__(self, status: int | None, output: str, console: str) -> None:
        super().__init__(status, output, console)
        self.status = status
        self.output = output
        self.console = console

    def __str__(self) -> str:
        ended = "did not end" if self.status is None else f"ended with {self.status}"
        console = "\n".join(self.console.splitlines()[-CONSOLE_TAIL:])
        return f"the script {ended}\n-- output\n{self.output}\n-- console\n{console}"


def run_guest(
    script: str,
    *,
    disks: Sequence[GuestDisk],
    timeout: int = PATIENCE,
    modules: Sequence[str] = DEFAULT_MODULES,
) -> str:
    """Boot a guest, run a shell script in it, and return the script's output.

    ``timeout`` is seconds from when it starts.

    :raises GuestFailed: when the script's status is not 0, or it did not end in time.
    :raises Unavailable: when QEMU, busybox, a kernel or a module is missing.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as directory:
        place = Path(directory)
        initrd = write_initrd(place / "initrd", script=script, modules=modules)
        try:
            ended = machine.run(
                place,
                kernel=newest_kernel(),
                initrd=initrd,
                devices=[option for disk in disks for option in disk.options()],
                boots_within=PATIENCE,  # two or three seconds on an idle machine
                timeout=timeout,
            )
        except NoGuest as error:
            raise Unavailable(str(error)) from error
    if ended.status != 0:
        raise GuestFailed(ended.status, ended.output, ended.console + ended.said)
    return ended.output


def write_initrd(
    path: Path, *, script: str, modules: Sequence[str] = DEFAULT_MODULES
) -> Path:
    """Write the initramfs of a guest that runs a script.

    :raises Unavailable: when busybox, a kernel or a module is missing.
    """
    try:
        return initramfs.write(
            path, script=script, kernel=newest_kernel(), modules=modules
        )
    except NoGuest as error:
        raise Unavailable(str(error)) from error


@functools.cache
def newest_kernel() -> Kernel:
    """Return the newest kernel that has its modules.

    :raises Unavailable: when there is none.
    """
    try:
        return kernel.newest()
    except NoGuest as error:
        raise Unavailable(str(error)) from error


def comma_separated(options: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())
