"""What matters to a disk besides its file: its filesystem, other disks, its reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from allocpolicy.contract.facts import Headroom
from allocpolicy.contract.policy import Policy
from allocpolicy.images import reach as reaches
from allocpolicy.images.reach import Reach
from allocpolicy.record import dataclass
from allocpolicy.storage import below, budget, directories, mount
from allocpolicy.storage.filesystem import Filesystem
from allocpolicy.storage.mount import Identity
from allocpolicy.storage.space import free_bytes
from allocpolicy.wording import short


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A disk's filesystem, by type, and the headroom that is kept free on it.

    ``unwritten_beside`` returns the reserved-unwritten bytes of the other disks in the
    same account: they need headroom, too. ``reach`` is what its header may lead to.
    ``free`` returns what may still be taken beside an open disk: statvfs(3) does not
    answer for its directory's budget. ``below`` says why what lies below the filesystem
    can't guarantee storage.
    """

    filesystem: str
    copy_on_write: bool
    headroom: Headroom
    unwritten_beside: Callable[[], int]
    reach: Reach
    below: str | None = None
    free: Callable[[int], int] = free_bytes


def surroundings(
    fd: int,
    *,
    directory: Path,
    policy: Policy,
    identity: Identity | Filesystem | None = None,
    reach: Reach | None = None,
) -> Surroundings:
    """Return the surroundings of an open disk in a directory; nothing is written.

    :param identity: the disk's filesystem, if known.
    :param reach: what its header may lead to; by default what its owner may read.
    """
    found = identity or mount.identify(fd)

    def unwritten_beside() -> int:
        from allocpolicy.observe import account  # few need to know of other disks

        # Disks in use are not flushed: the result errs on the large side.
        return account.take(directory, policy=policy, other_than=(fd,)).unwritten

    return Surroundings(
        filesystem=found.type,
        copy_on_write=found.copy_on_write,
        headroom=policy.headroom,
        unwritten_beside=unwritten_beside,
        reach=reach or reaches.of(fd, trusted=policy.trusted_base_directories),
        below=below.exception(fd),
        free=lambda _: _free_in(directory),
    )


def _free_in(directory: Path) -> int:
    with directories.opened(directory) as found:
        return budget.space_of(found.fd).free


def lack_of_headroom(headroom: Headroom, *, unwritten: int, free: int) -> str | None:
    """Return the headroom missing for so many reserved-unwritten bytes, or None."""
    wanted = headroom.bytes_for(unwritten)
    if free < wanted:
        return f"headroom: {short(needed=wanted, free=free)}"
    return None
