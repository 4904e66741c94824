"""Holding an existing disk exclusively, and what prevents a rewrite of it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from allocpolicy.contract.facts import Observation, Use
from allocpolicy.errors import ImageError, Unsupported
from allocpolicy.images.existing import Disk
from allocpolicy.observe.disk import use
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, inode_flags, lease, mount, temporary
from allocpolicy.storage.inode_flags import InodeFlag

IN_USE = "it is in use; stop the VM or the process that has it open, and try again"
APPEND_ONLY = (
    "its directory is append-only, so it can't be replaced; first run chattr -a there"
)
LINKED = "it has more than one hard link, and a rewrite would separate them"
NO_WHOLE_LEASES = (
    "can't determine whether it is in use: a lease on {} doesn't show who opens the"
    " file below it or elsewhere; change the disk on the local filesystem that has it"
)
NO_LEASE = "can't determine whether it is in use: {}"
_PATIENCE = 5.0  # seconds; a mere look at a disk keeps it open for less


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Whether an open disk is ours alone; ``problem`` says why it is not.

    ``telling``: the filesystem shows who has it open. ``rehearsed``: for a dry run,
    which takes no lease: the problem is what can be known without one.
    """

    disk: Disk
    problem: str | None = None
    telling: bool = True
    rehearsed: bool = False

    def is_whole(self) -> bool:
        """Return whether the disk is ours, and no other process opened it since."""
        return self.problem is None and lease.is_whole(self.disk.fd)

    def let_in(self) -> None:
        """Give the disk up if another process waits for it; it is no longer whole."""
        if self.loss is not None:
            lease.give_up(self.disk.fd)

    @property
    def loss(self) -> str | None:
        """Return why a disk that was ours alone no longer is, or None."""
        lost = self.problem is None and not self.rehearsed and not self.is_whole()
        return lease.OPENED_MEANWHILE if lost else None

    def require(self) -> None:
        """Check that it is.

        :raises ImageError: when it is in use.
        :raises Unsupported: when that is unknown.
        """
        if self.problem is not None:
            raise self.refusal(self.problem)
        if not self.rehearsed and not lease.is_whole(self.disk.fd):
            raise ImageError(self.disk.path, lease.OPENED_MEANWHILE)

    def refusal(self, reason: str) -> ImageError | Unsupported:
        """Return the error that refuses work for which the disk must be ours alone."""
        kind = ImageError if self.telling else Unsupported
        return kind(self.disk.path, reason)


@contextlib.contextmanager
def held(disk: Disk) -> Iterator[Hold]:
    """Try to have the disk alone while the body runs: a write lease, no QEMU lock."""
    with contextlib.suppress(PermissionError):  # the directory can't be listed
        temporary.sweep(disk.directory)
    with contextlib.ExitStack() as stack:
        problem = _lease(disk, stack)
        telling = problem in (None, IN_USE)
        if use(disk.fd) is not Use.NONE:
            problem, telling = IN_USE, True
        yield Hold(disk=disk, problem=problem, telling=telling)


def foreseen(disk: Disk) -> Hold:
    """Return what `held` would find, as far as that can be known without a lease."""
    problem, telling = None, True
    if not lease.are_whole(disk.fd):
        problem, telling = NO_WHOLE_LEASES.format(mount.of(disk.fd).type), False
    elif not lease.are_ours(disk.fd):
        problem, telling = NO_LEASE.format(lease.refusal(disk.fd)), False
    if use(disk.fd) is not Use.NONE:
        problem, telling = IN_USE, True
    return Hold(disk=disk, problem=problem, telling=telling, rehearsed=True)


def _lease(disk: Disk, stack: contextlib.ExitStack) -> str | None:
    """Take the lease for the stack's lifetime; return why that failed, or None."""
    if not lease.are_whole(disk.fd):
        return NO_WHOLE_LEASES.format(mount.of(disk.fd).type)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            stack.enter_context(lease.held(disk.fd))
        except OSError as error:
            if error.errno in lease.NO_LEASES:
                return NO_LEASE.format(lease.refusal(disk.fd, error))
            if error.errno != errno.EAGAIN:
                raise
            waited = time.monotonic() >= deadline
            if waited or use(disk.fd) is not Use.NONE:
                return IN_USE
            time.sleep(0.05)
        else:
            return None


def rewrite_obstacle(hold: Hold, current: Observation) -> str | None:
    """Return what keeps the disk from being rewritten, or None.

    A rewrite takes the disk's name, needs exclusive use, and must lose nothing.
    """
    if hold.problem is not None:
        return hold.problem
    if is_append_only(hold.disk):
        return APPEND_ONLY
    if current.in_use is not Use.NONE:
        return IN_USE
    if is_linked(hold.disk):
        return LINKED
    if current.hindrances:
        return f"a rewrite would lose or break {', '.join(current.hindrances)}"
    return None


def is_append_only(disk: Disk) -> bool:
    """Return whether the disk's directory forbids replacing its files."""
    with directories.readable(disk.directory) as directory:
        return inode_flags.has(directory, InodeFlag.APPEND)


def is_linked(disk: Disk) -> bool:
    """Return whether the disk's file has other names."""
    return os.fstat(disk.fd).st_nlink > 1
