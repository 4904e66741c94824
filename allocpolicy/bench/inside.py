"""The proposal's own measurement: dd with fdatasync, inside a guest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from allocpolicy.bench.figures import WAYS
from allocpolicy.bench.guest import initramfs, machine
from allocpolicy.bench.guest import kernel as kernels
from allocpolicy.bench.guest.kernel import Kernel
from allocpolicy.bench.guest.programs import NoGuest
from allocpolicy.bench.layouts import Layout
from allocpolicy.bench.regions import MIB, Regions
from allocpolicy.record import dataclass

_KVM = Path("/dev/kvm")
# KVM may be there and hang, as in some virtual machines. It is used if a guest boots in
# this time, which is ten times what that takes.
_KVM_BOOTS_WITHIN = 6.0  # seconds
_BOOTS_WITHIN = 180.0  # by software, on a busy machine
_SLOWEST = MIB  # bytes a second that are waited for
# conv=fsync: busybox has no fdatasync, and a block device has nothing else to sync. Its
# shell's clock tells microseconds; that of an older one, or of the kernel, hundredths.
_SCRIPT = """\
clock() {{ echo "${{EPOCHREALTIME:-$(cut -d ' ' -f 1 /proc/uptime)}}"; }}
for disk in {disks}; do
    started=$(clock)
    said=$(dd if=/dev/zero of=/dev/disk-$disk bs=1M seek={seek} count={count} \\
        conv=notrunc,fsync 2>&1)
    echo "dd $disk $? $started $(clock)" $said
done
"""
_LINE = re.compile(
    r"^dd (\w+) (\d+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)(?: (.*))?$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Boots guests of one kernel; ``accelerator`` is ``kvm``, or ``tcg``: software."""

    place: Path
    kernel: Kernel
    accelerator: str

    def rates(
        self,
        disks: Mapping[str, tuple[Layout, Path]],
        *,
        regions: Regions,
        direct: bool,
    ) -> dict[str, float | str]:
        """Return bytes a second of dd on each disk, or what it said when it failed.

        One guest has all of them, and writes to one after another.

        :param disks: by serial number.
        :raises NoGuest: when the guest doesn't run to its end.
        """
        script = _SCRIPT.format(
            disks=" ".join(disks),
            seek=regions.dd // MIB,
            count=regions.size // MIB,
        )
        ended = machine.run(
            self.place,
            kernel=self.kernel,
            initrd=initramfs.write(
                self.place / "initrd", script=script, kernel=self.kernel
            ),
            devices=[
                option
                for serial, (layout, disk) in disks.items()
                for option in _attached(layout, disk, serial=serial, direct=direct)
            ],
            accelerator=self.accelerator,
            boots_within=_BOOTS_WITHIN,
            timeout=60 + len(disks) * regions.size / _SLOWEST,
        )
        if ended.status != 0:
            raise NoGuest(f"the guest failed: {ended.why}")
        return told_rates(ended.output, size=regions.size)


def guests(place: Path, *, kernel: Path | None) -> Guests:
    """Return what boots guests here, by KVM if it works.

    :param kernel: the kernel's file; None: the newest in /boot.
    :raises NoGuest: when no guest runs.
    """
    found = kernels.of_file(kernel) if kernel else kernels.newest()
    script = initramfs.write(place / "initrd", script="true", kernel=found)
    works = os.access(_KVM, os.R_OK | os.W_OK) and _boots(place, script, found)
    accelerator = machine.KVM if works else machine.TCG
    return Guests(place=place, kernel=found, accelerator=accelerator)


def told_rates(output: str, *, size: int) -> dict[str, float | str]:
    """Return bytes a second by what the guest says of each disk, or why dd failed."""
    told: dict[str, float | str] = {}
    for serial, status, started, ended, said in _LINE.findall(output):
        seconds = float(ended) - float(started)
        works = status == "0" and seconds > 0
        told[serial] = size / seconds if works else said.strip() or f"status {status}"
    return told


def _boots(place: Path, script: Path, kernel: Kernel) -> bool:
    ended = machine.run(
        place,
        kernel=kernel,
        initrd=script,
        accelerator=machine.KVM,
        boots_within=_KVM_BOOTS_WITHIN,
        timeout=_KVM_BOOTS_WITHIN,
    )
    return ended.status == 0


def _attached(
    layout: Layout, disk: Path, *, serial: str, direct: bool
) -> Sequence[str]:
    """Return the options of QEMU that attach a disk: ENOSPC is the guest's error."""
    node = layout.node(disk, aio=WAYS[0])
    node |= {"node-name": serial, "cache": {"direct": direct, "no-flush": False}}
    device = f"virtio-blk-pci,drive={serial},serial={serial},werror=report"
    return ["-blockdev", json.dumps(node), "-device", device]
