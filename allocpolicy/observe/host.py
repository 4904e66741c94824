"""The host's storage, before planning: what a directory's filesystem is and can do."""

from __future__ import annotations

import os
from collections.abc import Iterable

from allocpolicy.contract.facts import BaseImage, Host
from allocpolicy.contract.policy import Policy
from allocpolicy.record import dataclass
from allocpolicy.storage import direct_io, filesystem
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.filesystem import Filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The host, and the descriptors of the images whose blocks its files can share.

    ``direct_io_alignment`` is what direct I/O needs there, in bytes; None: it does not
    work there.
    """

    host: Host
    shareable: frozenset[int]
    direct_io_alignment: int | None

    def shares(self, image: BaseImage) -> bool:
        """Return whether files in the directory can share the blocks of all layers."""
        return all(layer.fd in self.shareable for layer in image.layers)


def storage(
    directory: Directory, *, policy: Policy, images: Iterable[BaseImage] = ()
) -> Storage:
    """Return what the directory's filesystem is, can do, and can share.

    Everything is found by trying, on one unnamed file.

    :raises DestinationError: when no disk can be created there.
    """
    from allocpolicy.storage import staging

    fds = {layer.fd for image in images for layer in image.layers}
    with staging.create(directory) as staged:
        shareable = frozenset(fd for fd in fds if _can_share(fd, staged.fd))
        aligned = direct_io.alignment(staged.fd)
        found = filesystem.probe_file(staged)
    return _storage(
        found,
        directory=directory,
        policy=policy,
        shareable=shareable,
        direct_io_alignment=aligned,
    )


def _storage(
    found: Filesystem,
    *,
    directory: Directory,
    policy: Policy,
    shareable: frozenset[int] = frozenset(),
    direct_io_alignment: int | None,
) -> Storage:
    return Storage(
        host=Host(
            directory=directory.path,
            filesystem=found,
            headroom=policy.headroom,
            disk_directories=policy.disk_directories,
            limits=policy.limits,
        ),
        shareable=shareable,
        direct_io_alignment=direct_io_alignment,
    )


def of_disk(fd: int, *, directory: Directory, policy: Policy) -> Storage:
    """Return the same as far as an open disk shows it; nothing is tried, or shared.

    For a disk that is left alone, and a directory in which no file can be made.
    """
    return _storage(
        filesystem.of_file(fd),
        directory=directory,
        policy=policy,
        direct_io_alignment=direct_io.alignment(fd),
    )


def _can_share(source: int, target: int) -> bool:
    """Return whether the empty target can share the source's blocks; it stays empty."""
    from allocpolicy.storage import reflink

    try:
        return reflink.can_share(source, target)
    finally:
        os.ftruncate(target, 0)
