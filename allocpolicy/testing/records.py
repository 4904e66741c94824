"""Facts, observations and base images that nobody measured: for tests without a disk.

Each function returns a record that could be real, with what the caller says changed in
it. Paths are nowhere and descriptors are closed: a plan has no use for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from allocpolicy import (
    Allocation,
    BaseImage,
    DiskFormat,
    DiskRole,
    ExtentSummary,
    Facts,
    Filesystem,
    Headroom,
    Host,
    MappingState,
    Observation,
    Operation,
    Request,
    fully_allocated_size,
)
from allocpolicy.contract.read_only import ReadOnly, frozen
from allocpolicy.record import replace

MIB, GIB = 1 << 20, 1 << 30
CLUSTER_SIZE = 64 << 10
NOWHERE = Path("/nonexistent/allocpolicy")
CLOSED = -1

_EXT4 = Filesystem(
    type="ext4",
    key="/dev/nowhere",
    block_size=4096,
    size=100 * GIB,
    free=50 * GIB,
    fallocate=True,
    copy_on_write=False,
    nocow=False,
    user_xattr=True,
)
#: filesystems of 100 GiB by type, half of them free
FILESYSTEMS: Mapping[str, Filesystem] = ReadOnly(
    {
        "ext4": _EXT4,
        "btrfs": replace(_EXT4, type="btrfs", copy_on_write=True, nocow=True),
        "xfs": replace(_EXT4, type="xfs"),
        "ext2": replace(_EXT4, type="ext2", fallocate=False),
        "tmpfs": replace(_EXT4, type="tmpfs", key="tmpfs-0:42", user_xattr=False),
    }
)
REFLINK = frozenset({"btrfs", "xfs"})  # that can share blocks between files


def request(format: DiskFormat = DiskFormat.QCOW2, **fields: Any) -> Request:
    """Return a request for a new disk of 10 GiB, with the fields that are given."""
    base = fields.get("base")
    given: dict[str, Any] = {
        "operation": Operation.PROVISION,
        "destination": NOWHERE / "disk",
        "virtual_size": 10 * GIB,
        "disk_role": DiskRole.ROOT if base else DiskRole.EPHEMERAL,
        **fields,
    }
    return Request(format=format, **given)


def change_of(current: Observation, **fields: Any) -> Request:
    """Return the request to bring a disk to its policy, or to grow it.

    :param fields: of the request; with another ``virtual_size`` the disk is to grow.
    """
    grows = fields.get("virtual_size", current.virtual_size) != current.virtual_size
    given: dict[str, Any] = {
        "operation": Operation.RESIZE if grows else Operation.APPLY,
        "virtual_size": current.virtual_size,
        "disk_role": DiskRole.ROOT,
        **fields,
    }
    return request(current.format, **given)


def host_on(filesystem: Filesystem | str, *, directory: Path = NOWHERE) -> Host:
    """Return a host whose directory is on a filesystem, or on one of `FILESYSTEMS`."""
    if isinstance(filesystem, str):
        filesystem = FILESYSTEMS[filesystem]
    headroom = Headroom(ratio=0.01, minimum=64 * MIB)
    return Host(directory=directory, filesystem=filesystem, headroom=headroom)


def facts_on(
    filesystem: Filesystem | str = "ext4",
    *,
    base: BaseImage | None = None,
    current: Observation | None = None,
    directory: Path = NOWHERE,
    observed: Mapping[str, object] | None = None,
    obstacle: str | None = None,
    **fields: Any,
) -> Facts:
    """Return what is known before planning, on a filesystem or one of `FILESYSTEMS`.

    :param base: the image that a new disk starts from.
    :param current: an existing disk: it can be rewritten, as far as is known, unless
        there is an ``obstacle``.
    :param observed: what the strategy's own ``observe`` returned.
    :param fields: of the facts.
    """
    file = None
    if current is not None and obstacle is None:
        base = image_of(current)
        file = image_of(current, format=DiskFormat.RAW, size=current.file_size)
    given: dict[str, Any] = {"base": base, "file": file, "obstacle": obstacle, **fields}
    return Facts(
        host=host_on(filesystem, directory=directory),
        observed=cast(Mapping[str, object], frozen(observed or {})),
        **given,
    )


def base_image(
    format: DiskFormat = DiskFormat.QCOW2,
    *,
    plain: bool = True,
    virtual_size: int = MIB,
    **fields: Any,
) -> BaseImage:
    """Return a base image, with the fields that are given.

    :param plain: whether its file has the data as the guest reads it, so that it can be
        shared; a compressed one has not.
    """
    path = fields.pop("path", NOWHERE / f"base.{format}")
    given: dict[str, Any] = {
        "fd": CLOSED,
        "data_bytes": virtual_size if format is DiskFormat.RAW else virtual_size // 2,
        "identity": (),
        "source": path,
        "source_format": str(format),
        **fields,
    }
    return BaseImage(
        path=path, format=format, plain=plain, virtual_size=virtual_size, **given
    )


def image_of(
    current: Observation,
    *,
    format: DiskFormat | None = None,
    size: int | None = None,
) -> BaseImage:
    """Return an existing disk as the image from which it is rewritten.

    :param format: raw, with the file's ``size``: the file, byte for byte; None: what
        the guest reads.
    """
    size = current.virtual_size if size is None else size
    return base_image(
        format or current.format,
        path=NOWHERE / "disk",
        virtual_size=size,
        data_bytes=min(current.actual_size, size),
        leased=True,
    )


def observation(
    format: DiskFormat = DiskFormat.QCOW2,
    *,
    allocation: Allocation = Allocation.THIN,
    mapping: MappingState | None = None,
    virtual_size: int = 10 * GIB,
    **fields: Any,
) -> Observation:
    """Return what a disk is, with the fields that are given; the others fit.

    A thin disk has one block of storage, another all of it. Of a qcow2 nothing is
    mapped; a raw disk is always mapped.
    """
    qcow2 = format is DiskFormat.QCOW2
    cluster_size: int = fields.get("cluster_size", CLUSTER_SIZE)
    full = virtual_size
    if qcow2:
        full = fully_allocated_size(virtual_size, cluster_size=cluster_size)
    thin = allocation is Allocation.THIN
    backing = fields.get("backing_file")
    given: dict[str, Any] = {
        "file_size": full,
        "actual_size": 4096 if thin else full,
        "full_size": full,
        "guaranteed": False,
        "exception": "the disk is thin" if thin else "nobody has measured it",
        "filesystem": "ext4",
        "extents": None,
        "backing_format": "qcow2" if backing else None,
        "cluster_size": cluster_size if qcow2 else None,
        **fields,
    }
    mapping = mapping or (MappingState.NONE if qcow2 else MappingState.FULL)
    return Observation(
        format=format,
        allocation=allocation,
        mapping=mapping,
        virtual_size=virtual_size,
        **given,
    )


def shared_extents(size: int) -> ExtentSummary:
    """Return the extents of a file whose ``size`` bytes other files share."""
    return ExtentSummary(
        count=1,
        fragments=1,
        written=size,
        unwritten=0,
        shared=size,
        encoded=0,
        delalloc=0,
        hole=0,
    )
