"""A machine that boots a guest, waits for its script, and ends with this process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.bench.guest import programs
from allocpolicy.bench.guest.initramfs import COMMAND_LINE, EXIT_STATUS, STARTED
from allocpolicy.bench.guest.kernel import Kernel
from allocpolicy.record import dataclass

TCG = "tcg"  #: software emulation
KVM = "kvm"  #: the processor's own virtualisation
CONSOLE, OUTPUT = "console", "output"  #: the files of the serial lines
_PAUSE = 0.05  # seconds
_MEBIBYTES = 256
_TAIL = 3  # lines of the console that say why


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a guest ended: ``status`` is its script's, None if that didn't end.

    ``said`` is what QEMU said, on its standard error.
    """

    status: int | None
    output: str
    console: str
    said: str

    @property
    def why(self) -> str:
        """Why the script failed, as far as anybody said, in one line."""
        lines = [*self.said.splitlines(), *self.console.splitlines()]
        if self.status is not None:
            return f"its script ended with {self.status}: {self.output.strip()[-200:]}"
        told = "; ".join(line.strip() for line in lines[-_TAIL:] if line.strip())
        return told or "its script did not end"


def run(
    place: Path,
    *,
    kernel: Kernel,
    initrd: Path,
    devices: Sequence[str] = (),
    accelerator: str = TCG,
    boots_within: float,
    timeout: float,
) -> Ended:
    """Run a machine until it powers off, and return what its guest wrote.

    :param place: the directory that QEMU runs in, which gets the files of the serial
        lines.
    :param devices: options of QEMU's command line.
    :param boots_within: seconds until the script must start.
    :param timeout: seconds from then until the machine must be off.
    :raises NoGuest: when QEMU or setpriv is missing.
    """
    console, output = place / CONSOLE, place / OUTPUT
    for path in (console, output):
        path.write_bytes(b"")
    command = [
        # nothing outlives us, not even where we are killed
        *("setpriv", "--pdeathsig", "KILL", "--"),
        programs.find("qemu-system-x86_64"),
        *("-accel", accelerator, "-machine", "q35", "-m", str(_MEBIBYTES), "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{CONSOLE}", "-serial", f"file:{OUTPUT}"),
        *("-kernel", str(kernel.path.absolute()), "-initrd", str(initrd.absolute())),
        *("-append", COMMAND_LINE),
        *devices,
    ]
    said = _run(command, place=place, boots_within=boots_within, timeout=timeout)
    written, found, status = _read(output).rpartition(EXIT_STATUS)
    return Ended(
        status=int(status) if found else None,
        # without the sentence there is only what the script wrote, after it
        output=written if found else status,
        console=_read(console),
        said=said,
    )


def _run(
    command: Sequence[str], *, place: Path, boots_within: float, timeout: float
) -> str:
    """Run QEMU to its end, or kill it when it takes too long; return what it said."""
    machine = subprocess.Popen(
        command,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with machine:
        try:
            if not _starts(machine, place / CONSOLE, within=boots_within):
                machine.kill()
            return machine.communicate(timeout=timeout)[1]
        except subprocess.TimeoutExpired:
            machine.kill()
            return machine.communicate()[1]
        except BaseException:
            machine.kill()
            raise


def _starts(machine: subprocess.Popen[str], console: Path, *, within: float) -> bool:
    """Wait until the guest starts its script, or has ended, but not for ever."""
    deadline = time.monotonic() + within
    while machine.poll() is None and STARTED not in _read(console):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
