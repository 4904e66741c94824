"""What the pure laws ask a strategy: every kind of request, facts and disk, once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import (
    Allocation,
    DiskFormat,
    Facts,
    MappingState,
    Observation,
    Request,
    Use,
)
from allocpolicy.record import dataclass, replace
from allocpolicy.testing.records import (
    FILESYSTEMS,
    GIB,
    MIB,
    NOWHERE,
    REFLINK,
    base_image,
    change_of,
    facts_on,
    observation,
    request,
    shared_extents,
)
from allocpolicy.testing.subject import Options

SIZES = (MIB, 10 * GIB + 512, 3 << 40)
EXISTING_SIZE, GROWN = SIZES[1], 16 * GIB
BASES = (
    None,
    base_image(),
    base_image(
        DiskFormat.RAW, path=NOWHERE / "_base" / "0123", source=NOWHERE / "base.vmdk",
        source_format="vmdk",
    ),
    base_image(plain=False, path=NOWHERE / "compressed.qcow2", data_bytes=MIB),
)  # fmt: skip
# What matters for a disk that exists: xfs and tmpfs are as ext4 then.
UNLIKE = ("ext4", "btrfs", "ext2")
OBSTACLE = "the suite says so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to ``plan``, or to ``amend`` if there is a current disk."""

    options: Options
    request: Request
    facts: Facts
    current: Observation | None = None

    def __str__(self) -> str:
        disk = "new disk" if self.current is None else told(self.current)
        base = self.facts.base
        return (
            f"a {self.request.format} of {self.request.virtual_size} bytes,"
            f" {self.request.operation}, {disk},"
            f" {f'base {base.path.name}' if base else 'no base'},"
            f" {self.facts.host.filesystem.type}, {dict(self.options)}"
        )


def told(disk: Observation) -> str:
    """Return what matters of a disk that exists, in a few words."""
    below = f", on {disk.backing_file.name}" if disk.backing_file else ""
    shared = f", {disk.extents.shared} shared" if disk.extents else ""
    moves = "" if disk.overwrites_in_place else ", not overwritten in place"
    used = f", in use: {disk.in_use}" if disk.in_use is not Use.NONE else ""
    return (
        f"a disk in {disk.format} of {disk.virtual_size} bytes, its mapping"
        f" {disk.mapping}, its allocation {disk.allocation}, {disk.actual_size} bytes"
        f" of storage{shared}{moves}{below}{used}"
    )


def new_disks(options: Options, *, directory: Path) -> Iterator[Case]:
    """Yield requests for new disks: formats, base images, sizes and filesystems."""
    for format, base, size, (kind, filesystem) in itertools.product(
        DiskFormat, BASES, SIZES, FILESYSTEMS.items()
    ):
        asked = request(
            format, base=base, virtual_size=size, destination=directory / "disk"
        )
        # A base image on the disk's filesystem, or on another.
        for shares in sorted({False, base is not None and kind in REFLINK}):
            facts = facts_on(
                filesystem, base=base, shares_base=shares, directory=directory
            )
            yield Case(options=options, request=asked, facts=facts)


def existing_disks(options: Options, *, directory: Path) -> Iterator[Case]:
    """Yield changes of disks in every state, that can and can't be rewritten."""
    for disk in disks():
        yield from of_disk(disk, options=options, directory=directory)


def of_disk(
    current: Observation, *, options: Options, directory: Path
) -> Iterator[Case]:
    """Yield the changes of one disk, where it can and can't be rewritten."""
    for filesystem in UNLIKE:
        for obstacle in (None, OBSTACLE):
            facts = facts_on(
                filesystem, current=current, directory=directory, obstacle=obstacle
            )
            for asked in changes(current, destination=directory / "disk"):
                yield Case(options=options, request=asked, facts=facts, current=current)


def changes(current: Observation, *, destination: Path) -> Iterator[Request]:
    """Yield what may be asked of a disk that exists."""
    apply = change_of(current, destination=destination)
    yield apply
    yield replace(apply, allow_thin=True)
    yield change_of(current, destination=destination, virtual_size=GROWN)


def disks() -> Iterator[Observation]:
    """Yield disks of one size in every state, those that share blocks among them."""
    for one in observations():
        if one.virtual_size != EXISTING_SIZE:
            continue
        yield one
        yield replace(one, file_size=MIB, actual_size=MIB)
        if one.allocation is Allocation.THIN:
            yield replace(one, extents=shared_extents(one.file_size))
        if one.allocation in (Allocation.THIN, Allocation.UNVERIFIABLE):
            yield replace(one, overwrites_in_place=False)


def observations() -> Iterator[Observation]:
    """Yield disks in every observable state, whether or not anything makes such."""
    for format, size, mapping, allocation, backing in itertools.product(
        DiskFormat, SIZES, MappingState, Allocation, (None, NOWHERE / "base.qcow2")
    ):
        if format is DiskFormat.RAW and (backing or mapping is not MappingState.FULL):
            continue
        yield observation(
            format,
            virtual_size=size,
            mapping=mapping,
            allocation=allocation,
            backing_file=backing,
        )
