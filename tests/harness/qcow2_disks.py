"""qcow2 disks of every kind, made by QEMU, and what our reader says of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from allocpolicy.qcow2 import mapping, tables
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.tables import OFFSET
from tests.harness.images import qemu_img

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
CLUSTER = 64 * KiB
COPIED, COMPRESSED = 1 << 63, 1 << 62


def write(disk: Path, *commands: str) -> None:
    arguments = [word for command in commands for word in ("-c", command)]
    command = ["qemu-io", "-f", "qcow2", "-d", "unmap", *arguments, str(disk)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "failed" not in done.stdout, done.stdout


def create(disk: Path, size: int | str, *options: str) -> Path:
    joined = ["-o", ",".join(options)] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *joined, disk, str(size))
    return disk


def patch(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def number(disk: Path, offset: int) -> int:
    with disk.open("rb") as stream:
        stream.seek(offset)
        return int.from_bytes(stream.read(8), "big")


def entry(value: int) -> bytes:
    return value.to_bytes(8, "big")


def header_of(disk: Path) -> Header:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return read_header(fd, path=disk)
    finally:
        os.close(fd)


def check(disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        check_tables(fd, read_header(fd, path=disk), path=disk)
    finally:
        os.close(fd)


def mapping_of(disk: Path) -> Mapped:
    """Return what is mapped, every entry looked at; no table is checked."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        l2 = tables.read_l2_tables(fd, header, path=disk)
        tally = mapping.Tally(header, l2)
        if l2 is not None:
            for batch in tables.read_batches(fd, header, l2, path=disk):
                mapping.forget_beyond_virtual_size(batch)
                tally.add(batch.used())
        return tally.mapped
    finally:
        os.close(fd)


def mapped_clusters(disk: Path) -> int:
    """Return how many of the guest's clusters have a host cluster."""
    fd = os.open(disk, os.O_RDONLY)
    count = 0
    try:
        header = read_header(fd, path=disk)
        l2 = tables.read_l2_tables(fd, header, path=disk)
        if l2 is not None:
            for batch in tables.read_batches(fd, header, l2, path=disk):
                mapping.forget_beyond_virtual_size(batch)
                count += int(((batch.standard & batch.host_bits) != 0).sum())
        return count
    finally:
        os.close(fd)


def small_disk(directory: Path) -> Path:
    """Return 4 MiB of 64 KiB clusters: data at 0 and 1, a zero cluster at 4."""
    disk = create(directory / "disk.qcow2", 4 * MiB)
    write(disk, "write 0 128k", "write -z 256k 64k")
    return disk


def l2_of(disk: Path) -> int:
    return number(disk, header_of(disk).l1_offset) & OFFSET


def plain(directory: Path) -> Path:
    disk = create(directory / "plain.qcow2", 64 * MiB)
    write(disk, "write 0 1M", "write 5M 3k", "write -z 2M 1M", "write -z 0 128k")
    write(disk, "discard 512k 128k", "write 63M 1M")
    return disk


def version_2(directory: Path) -> Path:
    disk = create(directory / "v2.qcow2", 64 * MiB, "compat=0.10", "cluster_size=4K")
    write(disk, "write 0 1M", "write 33M 100k", "discard 0 64k")
    return disk


def tiny_clusters(directory: Path) -> Path:
    disk = create(directory / "tiny.qcow2", 4 * MiB + 512, "cluster_size=512")
    write(disk, "write 1M 512", "write 3M 512", "write 100k 200k", "write 4M 512")
    return disk


def metadata(directory: Path) -> Path:
    return create(directory / "metadata.qcow2", GiB + 512, "preallocation=metadata")


def subclusters(directory: Path) -> Path:
    disk = create(directory / "sub.qcow2", 8 * MiB, "extended_l2=on")
    write(disk, "write 0 2k", "write 64k 64k", "write -z 200k 100k", "write 1M 6k")
    return disk


def compressed(directory: Path) -> Path:
    plain(directory)
    disk = directory / "compressed.qcow2"
    qemu_img("convert", "-c", "-O", "qcow2", directory / "plain.qcow2", disk)
    return disk


def compressed_subclusters(directory: Path) -> Path:
    disk = create(directory / "csub.qcow2", 8 * MiB, "extended_l2=on")
    write(disk, "write -c 0 64k", "write 64k 64k", "write -c 1M 64k")
    return disk


def snapshot(directory: Path) -> Path:
    disk = create(directory / "snapshot.qcow2", 8 * MiB)
    write(disk, "write 0 1M")
    qemu_img("snapshot", "-c", "one", disk)
    write(disk, "write 512k 1M")
    return disk


def data_file(directory: Path) -> Path:
    options = f"data_file={directory}/outside"
    disk = create(directory / "external.qcow2", 8 * MiB, options)
    write(disk, "write 0 1M", "write 3M 64k", "write -z 5M 64k")
    return disk


def preallocated_data_file(directory: Path) -> Path:
    options = f"data_file={directory}/outside", "preallocation=metadata"
    return create(directory / "external.qcow2", 8 * MiB, *options)


MAKERS = [
    plain,
    version_2,
    tiny_clusters,
    metadata,
    subclusters,
    compressed,
    compressed_subclusters,
    snapshot,
    data_file,
    preallocated_data_file,
]
