"""(a) Empty images with all metadata preallocated, in process, against qemu-img."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import automatic_cluster_size
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.geometry import geometry
from benchmarks import measure, releases
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    TIB,
    Comparison,
    Contender,
    Part,
    Record,
    Settings,
    Target,
    ratio,
)
from benchmarks.releases import Disk, Worker

SIZES = {"10 GiB": 10 * GIB, "100 GiB": 100 * GIB, "1 TiB": TIB, "8 TiB": 8 * TIB}
KINDS = ("xfs", "ext4", "btrfs")
QUICK, SHORT = ("10 GiB", "100 GiB"), ("100 GiB", "1 TiB")
SAME = 64 * 1024
# (size, our cluster size, ratio that the issue wants)
TARGETS = (
    ("100 GiB", "64K", 10),
    ("1 TiB", "64K", 20),
    ("1 TiB", "auto", 50),
    ("8 TiB", "auto", 100),
)

TEXT = """In process: `writer.write_mapped` into a new file, and all of
`provision()` (observed, stamped, verified, published); both end with fsync of file and
directory. `qemu-img create -o preallocation=metadata` is a process, and its file and
directory are synced after it. *auto* is the cluster size that we choose by ourselves;
qemu-img was told it. Ratios are to `write_mapped` at the same cluster size."""


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for kind in settings.of(KINDS):
        with (
            measure.mounted(kind, directory=settings.directory) as mount_point,
            releases.working(settings.releases) as workers,
        ):
            releases.warm_up(workers, directory=mount_point, base=None)
            for size in _sizes(settings):
                comparisons += _measure(
                    kind, size, mount_point, settings, workers=workers
                )
    return Part(
        name="metadata",
        title="(a) Metadata-preallocated empty images",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(_targets(comparisons)),
    )


def _sizes(settings: Settings) -> Sequence[str]:
    if settings.quick:
        return QUICK
    return SHORT if settings.short else list(SIZES)


def cluster_sizes(size: int) -> dict[str, int]:
    """Return the cluster sizes at which a virtual size is measured."""
    return {"64K": SAME, "auto": automatic_cluster_size(size)}


def _measure(
    kind: str,
    size: str,
    directory: Path,
    settings: Settings,
    *,
    workers: Sequence[Worker],
) -> list[Comparison]:
    """Compare both cluster sizes in the same rounds, so that they compare, too."""
    contenders: list[Contender] = []
    clusters = cluster_sizes(SIZES[size])
    for label, cluster_size in clusters.items():
        if label == "auto" and cluster_size == SAME:
            continue
        line = "qemu-img create -q -f qcow2 -o preallocation=metadata,cluster_size="
        rival = f"{line}{cluster_size} {DISK} {SIZES[size]}"
        disk = Disk(size=SIZES[size], options={"cluster_size": _option(cluster_size)})
        contenders += [
            _writing(f"{label}: write_mapped", SIZES[size], cluster_size),
            *(worker.provisioning(f"{label}: provision", disk) for worker in workers),
            measure.commands(f"{label}: qemu-img", rival, limit=settings.limit),
        ]
    records = measure.in_turn(contenders, directory=directory, pairs=settings.pairs)
    return [
        Comparison(
            filesystem=kind,
            case=f"{size}, {_words(label, cluster_size)}",
            records=tuple(
                record for record in records if record.name.startswith(label)
            ),
        )
        for label, cluster_size in clusters.items()
        if any(record.name.startswith(label) for record in records)
    ]


def _option(cluster_size: int) -> str:
    """Return a cluster size as the option has it."""
    if cluster_size < MIB:
        return f"{cluster_size // 1024}K"
    return f"{cluster_size // MIB}M"


def _words(label: str, cluster_size: int) -> str:
    return label if label == "64K" else f"{label} ({cluster_size // 1024}K)"


def _writing(name: str, size: int, cluster_size: int) -> Contender:
    def make(directory: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        fd = os.open(directory / DISK, flags, 0o600)
        try:
            whole = geometry(size, cluster_size=cluster_size)
            writer.write_mapped(fd, whole, advance=lambda count: None)
        finally:
            os.close(fd)
        measure.sync_made(directory)

    return Contender(name=name, make=make)


def _targets(comparisons: list[Comparison]) -> list[Target]:
    """Hold `write_mapped` to the issue's ratios on every filesystem.

    Our automatic cluster size is held to qemu-img's default, 64K; its ratio to
    qemu-img at that same cluster size is said beside it.
    """
    found: list[Target] = []
    for kind in dict.fromkeys(one.filesystem for one in comparisons):
        records = {
            f"{one.case.split(',')[0]}, {record.name}": record
            for one in comparisons
            if one.filesystem == kind
            for record in one.records
        }
        for size, label, wanted in TARGETS:
            ours = records.get(f"{size}, {label}: write_mapped")
            if ours is None:
                continue
            rival = records[f"{size}, 64K: qemu-img"]
            text = f"{size}, ours at {label}, qemu-img at 64K"
            found.append(_target(kind, text, ours, rival, wanted))
            if label == "auto":
                rival = records[f"{size}, auto: qemu-img"]
                text = f"{size}, both at auto (the stricter reading)"
                found.append(_target(kind, text, ours, rival, wanted))
    return found


def _target(kind: str, text: str, ours: Record, rival: Record, wanted: int) -> Target:
    times = ratio(rival, ours)
    return Target(
        text=f"(a) {kind}, {text}",
        wanted=f"≥ {wanted}x faster",
        measured=f"{'more than ' if rival.at_least else ''}{times:.1f}x",
        reached=times >= wanted,
    )
