"""The guest's whole system: busybox, modules, and an init that runs one script."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.bench.guest import kernel as kernels
from allocpolicy.bench.guest import programs
from allocpolicy.bench.guest.archive import cpio, directory, file
from allocpolicy.bench.guest.kernel import Kernel

DISKS = ("virtio_pci", "virtio_blk")  #: the modules that every guest needs
STARTED = "guest: the script starts"
EXIT_STATUS = "guest: the script ended with status "
# On a busy machine the kernel's test of the timer fails by chance (no_timer_check).
COMMAND_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check rdinit=/init"

# The script's output has a serial line of its own, so that no message of the kernel
# gets between. The line must be raw, or newlines become CR LF.
_INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for serial in /sys/block/*/serial; do
    name=${{serial%/serial}}
    [ -s $serial ] && ln -s /dev/${{name##*/}} /dev/disk-$(cat $serial)
done
stty -F /dev/ttyS1 raw
echo "{STARTED}" >/dev/ttyS0
(cd /; sh /script) </dev/null >/dev/ttyS1 2>&1
echo "{EXIT_STATUS}$?" >/dev/ttyS1
poweroff -f
"""


def write(
    path: Path, *, script: str, kernel: Kernel, modules: Sequence[str] = DISKS
) -> Path:
    """Write the initramfs of a guest that runs a shell script, and return its path.

    The script has busybox's commands, an empty /mnt, and each disk by its serial
    number: ``/dev/disk-<serial>``.

    :raises NoGuest: when busybox or a module is missing.
    """
    script_of_its_own = cpio([file("script", script.encode())])
    path.write_bytes(_system(kernel, tuple(modules)) + script_of_its_own)
    return path


@functools.cache
def _system(kernel: Kernel, modules: tuple[str, ...]) -> bytes:
    """Return an archive of busybox, these modules and what they depend on."""
    entries = [directory(name) for name in ("bin", "dev", "mnt", "proc", "sys")]
    busybox = programs.busybox().read_bytes()
    entries.append(file("bin/busybox", busybox, executable=True))
    entries.append(file("init", _INIT.encode(), executable=True))
    entries.append(directory("modules"))
    order = []
    for path in kernels.with_dependencies(kernel, modules):
        order.append(kernels.module_name(path))
        content = kernels.module_content(path)
        entries.append(file(f"modules/{order[-1]}", content))
    entries.append(file("modules/order", " ".join(order).encode()))
    return cpio(entries)
