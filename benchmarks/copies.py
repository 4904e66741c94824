"""(b) Standalone copies of a base image, against every recipe of qemu-img's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import disks, measure, releases
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    Comparison,
    Contender,
    Part,
    Record,
    Settings,
    Target,
    output,
    ratio,
)
from benchmarks.releases import BEFORE, Disk, Worker
from benchmarks.targets import at_least, at_most, held

SIZE = 40 * GIB
KINDS = ("xfs", "ext4", "btrfs")
OURS = "provision"
MAPPED = "mapped"
MAPPED_OVERLAY = "overlay, extended L2, 128K, metadata (Proxmox's)"
OVERLAY = "overlay (the floor): create -b"
CREATE = "qemu-img create -q -f qcow2"
_RESIZE = f"qemu-img resize -q -f qcow2 {DISK}"
_MAPPED_RESIZE = f"qemu-img resize -q -f qcow2 --preallocation=metadata {DISK}"

TEXT = """In process: `provision()` of `performance`, data sparse, after a warm-up,
without prepared disks, which (h) measures.
Every recipe of qemu-img is its processes, then fsync of file and directory. Bases: a
raw image of 10 GiB with 2 GiB of random data in extents of 64 KiB to 8 MiB at 4 KiB
boundaries, and what `qemu-img convert -O qcow2` makes of it; both in the page cache
(warm). Ratios are to ours. *mapped*: `qemu-img map` gives every range a host offset;
*partly* and *none* are disks whose first writes still allocate clusters."""


def recipes(base: str, size: int) -> dict[str, tuple[str, ...]]:
    """Return qemu-img's ways to a disk of ``size`` bytes from a base of a format."""
    name = disks.BASES[base]
    convert = f"qemu-img convert -f {base} -O qcow2"
    resize = f"{_RESIZE} {size}"
    return {
        "convert + resize": (f"{convert} {name} {DISK}", resize),
        "convert -o preallocation=metadata + resize the same": (
            f"{convert} -o preallocation=metadata {name} {DISK}",
            f"{_MAPPED_RESIZE} {size}",
        ),
        "convert -C + resize": (f"{convert} -C {name} {DISK}", resize),
        "convert -C -o preallocation=metadata + resize the same": (
            f"{convert} -C -o preallocation=metadata {name} {DISK}",
            f"{_MAPPED_RESIZE} {size}",
        ),
        "convert -W -m 16 + resize": (f"{convert} -W -m 16 {name} {DISK}", resize),
        "convert -t none + resize": (f"{convert} -t none {name} {DISK}", resize),
        "create -o preallocation=metadata + convert -n -C": (
            f"{CREATE} -o preallocation=metadata {DISK} {size}",
            f"{convert} -n -C --target-is-zero {name} {DISK}",
        ),
    }


def overlay(base: str, size: int) -> str:
    """Return qemu-img's overlay, of which every first write still allocates."""
    return f"{CREATE} -F {base} -b {disks.BASES[base]} {DISK} {size}"


def mapped_overlay(base: str, size: int) -> str:
    """Return the overlay that Proxmox VE makes for linked clones."""
    options = "extended_l2=on,cluster_size=128k,preallocation=metadata"
    backing = f"-F {base} -b {disks.BASES[base]}"
    return f"{CREATE} -o {options} {backing} {DISK} {size}"


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for kind in settings.of(KINDS):
        with (
            measure.mounted(kind, directory=settings.directory) as mount_point,
            releases.working(settings.releases) as workers,
        ):
            make_bases(mount_point, settings)
            for base in disks.BASES:
                releases.warm_up(workers, directory=mount_point, base=base)
                contenders = _contenders(base, workers, limit=settings.limit)
                records = measure.in_turn(
                    contenders,
                    directory=mount_point,
                    pairs=settings.pairs,
                    examine=examine,
                )
                comparisons.append(
                    Comparison(filesystem=kind, case=f"{base} base", records=records)
                )
    return Part(
        name="copy",
        title="(b) Standalone copies for a 40 GiB flavor",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(
            target for comparison in comparisons for target in _targets(comparison)
        ),
    )


def make_bases(directory: Path, settings: Settings) -> None:
    data = settings.amount(2 * GIB, short=GIB, quick=256 * MIB)
    disks.make_bases(directory, virtual_size=10 * GIB, data=data)


def _contenders(
    base: str, workers: Sequence[Worker], *, limit: float
) -> list[Contender]:
    disk = Disk(size=SIZE, base=base)
    return [
        *(worker.provisioning(OURS, disk) for worker in workers),
        *(
            measure.commands(name, *lines, limit=limit)
            for name, lines in recipes(base, SIZE).items()
        ),
        measure.commands(OVERLAY, overlay(base, SIZE), limit=limit),
    ]


def examine(disk: Path) -> str:
    """Return how much of a qcow2 is mapped, and whether it stands alone."""
    line = f"qemu-img map -f qcow2 --output=json {disk.name}"
    ranges = json.loads(output(line, directory=disk.parent))
    mapped = sum(
        one["length"] for one in ranges if "offset" in one and not one["depth"]
    )
    size = sum(one["length"] for one in ranges)
    info = f"qemu-img info -f qcow2 --output=json {disk.name}"
    backed = "backing-filename" in json.loads(output(info, directory=disk.parent))
    share = MAPPED if mapped == size else "partly" if mapped else "none"
    return f"{share}, {'backed' if backed else 'standalone'}"


def fastest(records: Iterable[Record], *, mapped: bool) -> Record:
    """Return the fastest recipe's record; ``mapped``: of those that map it all."""
    rivals = [one for one in records if not mapped or one.note.startswith(MAPPED)]
    return min(rivals, key=lambda record: record.median)


def _targets(comparison: Comparison) -> list[Target]:
    kind, ours = comparison.filesystem, comparison[OURS]
    before = comparison.get(f"{OURS}, {BEFORE}")
    overlay = comparison[OVERLAY]
    rivals = [one for one in comparison.records if one not in (ours, before, overlay)]
    found = []
    for mapped in (False, True):
        rival = fastest(rivals, mapped=mapped)
        which = "fastest that maps all" if mapped else "fastest"
        found.append(
            held(
                f"(b) {kind}, {comparison.case}, {which}: {rival.name}",
                at_least(1 if kind == "ext4" else 8, "x its speed"),
                value=lambda record, rival=rival: ratio(rival, record),  # type: ignore[misc]
                ours=ours,
                before=before,
            )
        )
    if kind != "ext4":
        found.append(
            held(
                f"(b) {kind}, {comparison.case}, qemu-img's overlay",
                at_most(2, "x its time"),
                value=lambda record: ratio(record, overlay),
                ours=ours,
                before=before,
            )
        )
    return found
