"""Finding what a guest writes to instead of a disk: the topmost overlay on it."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.contract.facts import Observation, Use
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.images import existing, image_file
from allocpolicy.images.existing import Disk
from allocpolicy.observe import covering
from allocpolicy.observe import disk as observe
from allocpolicy.observe.covering import Covering
from allocpolicy.observe.walk import Found
from allocpolicy.storage import tree
from allocpolicy.storage.inode import inode


def beside(disk: Path, *, policy: Policy) -> Covering:
    """Return the overlays in a disk's directory.

    :param disk: its path without symbolic links.
    """
    return covering.look(
        [Found(path=os.fspath(disk), named=True)],
        seen=(),
        listed=tree.listed,
        trusted=policy.trusted_base_directories,
    )


def topmost(path: Path, *, policy: Policy) -> Path:
    """Return the topmost overlay on a disk, of those in its directory.

    It is the disk itself if none is on it, or if QEMU writes to it.

    :raises ImageError: when the disk can't be opened.
    :raises InvalidRequest: when several overlays are on it.
    """
    with existing.at_rest(path) as found, image_file.reopened(found) as image:
        file, in_use = inode(os.fstat(image.fd)), observe.use(image.fd)
    tops = beside(found.path, policy=policy).topmost(file, in_use=in_use)
    if len(tops) > 1:
        names = ", ".join(str(one.path) for one in tops)
        reason = f"{len(tops)} overlays are on it; name the one to be changed: {names}"
        raise InvalidRequest(f"{path}: {reason}")
    return tops[0].path if tops else path


def uncovered(disk: Disk, observed: Observation, *, policy: Policy) -> str | None:
    """Return where guests write instead of an open disk, in words, or None.

    Without a stamp it has no policy that would cover anything.
    """
    if disk.stamp is None or observed.in_use is Use.WRITING:
        return None
    above = beside(disk.path, policy=policy)
    return above.uncovered(inode(os.fstat(disk.fd)), in_use=observed.in_use)
