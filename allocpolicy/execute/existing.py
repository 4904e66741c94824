"""Carrying out a plan on a disk that exists: in place, or rewritten and exchanged.

In place nothing is ever taken back: what a failed reservation got, the disk keeps. A
rewrite is staged like a new disk and takes the disk's name in one step; both need the
disk to be ours alone, by a lease that is asked between chunks, but for a plan that is
safe while a VM runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, Use
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import ImageError, Unsupported
from allocpolicy.execute import admission
from allocpolicy.execute import new as execute
from allocpolicy.execute.new import Job, Outcome
from allocpolicy.images import base_image
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import Disk
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.progress import Progress, Watcher
from allocpolicy.storage import attributes, directories, inode_flags, lease, staging
from allocpolicy.storage.failure import explained
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.storage.staging import OPENED_MEANWHILE, Staged

IN_USE = "it is in use; stop the VM or whatever has it open, and try again"
FIXED = (
    "its directory is append-only, so it can't be replaced; use chattr -a on that first"
)
_PATIENCE = 5.0  # seconds; whoever only looks at a disk has it open for less


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Whether an open disk is ours alone; ``problem`` says why it is not.

    ``telling``: the filesystem tells who has it open.
    """

    disk: Disk
    problem: str | None
    telling: bool = True

    def is_whole(self) -> bool:
        """Return whether the disk is ours, and nobody opened it since."""
        return self.problem is None and lease.is_whole(self.disk.fd)

    def require(self) -> None:
        """Check that it is.

        :raises ImageError: when it is in use.
        :raises Unsupported: when that can't be told.
        """
        if self.problem is not None:
            raise self.refusal(self.problem)
        if not lease.is_whole(self.disk.fd):
            raise ImageError(self.disk.path, OPENED_MEANWHILE)

    def refusal(self, reason: str) -> ImageError | Unsupported:
        """Return the error that refuses what takes the disk to be ours alone."""
        kind = ImageError if self.telling else Unsupported
        return kind(self.disk.path, reason)


@contextlib.contextmanager
def hold(disk: Disk) -> Iterator[Hold]:
    """Try to have the disk alone while the body runs: a write lease, no QEMU lock."""
    with contextlib.ExitStack() as stack:
        problem = _lease(disk, stack)
        telling = problem in (None, IN_USE)
        if observe.use(disk.fd) is not Use.NONE:
            problem, telling = IN_USE, True
        yield Hold(disk=disk, problem=problem, telling=telling)


def _lease(disk: Disk, stack: contextlib.ExitStack) -> str | None:
    """Take the lease for as long as the stack; return why there is none."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            stack.enter_context(lease.held(disk.fd))
        except OSError as error:
            if error.errno in lease.NO_LEASES:
                return (
                    f"whether it is in use can't be told ({error.strerror}): leases are"
                    " for the file's owner and root, on local filesystems"
                )
            if error.errno != errno.EAGAIN:
                raise
            waited = time.monotonic() >= deadline
            if waited or observe.use(disk.fd) is not Use.NONE:
                return IN_USE
            time.sleep(0.05)
        else:
            return None


def amend(plan: Plan, job: Job, *, held: Hold, content: BaseImage | None) -> Outcome:
    """Bring the disk to the plan; whatever ends it, the disk stays whole.

    :param content: what the guest reads of the disk, opened; None if it can't be
        rewritten.
    :raises NotEnoughSpace: where it does not fit; a disk in place keeps what it got.
    :raises ImageError: when the disk is in use and the plan needs it alone, or somebody
        opened it meanwhile, or it has what a rewrite would lose.
    :raises Unsupported: when the storage cannot do what is needed.
    :raises PromiseBroken: when it then isn't what was promised.
    :raises StrategyFailed: when a strategy's code fails in any other way.
    """
    if plan.mode is Mode.NOTHING:
        outcome = execute.judge(job, held.disk.fd, seen=job.request.current)
        return _recorded(outcome, job, held.disk)
    if plan.mode is Mode.IN_PLACE:
        return _in_place(plan, job, held)
    check_rewritable(plan, job, held.disk)
    held.require()
    return _rewrite(plan, job, held, content)


def check_rewritable(plan: Plan, job: Job, disk: Disk) -> None:
    """Check that a rewrite would lose nothing, if that is what the plan means to do.

    :raises ImageError: naming what it would lose, or why it can't be replaced.
    """
    if plan.mode is not Mode.STAGED:
        return
    current = job.request.current
    if current and current.hindrances:
        named = ", ".join(current.hindrances)
        raise ImageError(disk.path, f"a rewrite would lose or break it: {named}")
    _check_links(disk)
    if is_fixed(disk):
        raise ImageError(disk.path, FIXED)


def is_fixed(disk: Disk) -> bool:
    """Return whether its directory lets no file be replaced."""
    with directories.opened(disk.path.parent) as directory:
        return inode_flags.has(directory, InodeFlag.APPEND)


def _check_links(disk: Disk) -> None:
    if os.fstat(disk.fd).st_nlink > 1:
        reason = "it has more than one hard link, and a rewrite would part them"
        raise ImageError(disk.path, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InPlace:
    """The disk itself as a target."""

    fd: int
    directory: Path

    def adopt(self, path: Path) -> None:
        """Refuse: the disk is not to be replaced by a ready-made file."""
        raise Unsupported(path, "a disk in place can't adopt a ready-made file")


def _in_place(plan: Plan, job: Job, held: Hold) -> Outcome:
    """Change the disk itself; an online plan may run while a VM has it."""
    watch = job.watch
    if not plan.online:
        held.require()
        watch = _guarded(watch, held)
    target = _InPlace(fd=held.disk.fd, directory=job.host.directory)
    with (
        directories.opened(target.directory) as directory,
        admission.turn(plan, host=job.host, lock_path=job.lock_path) as has_taken,
    ):
        execute.run_steps(
            plan,
            replace(job, watch=watch),
            target=target,
            directory=directory,
            has_taken=has_taken,
        )
        with _finishing(job, target.fd):
            os.fsync(target.fd)
    return _recorded(execute.judge(job, target.fd), job, held.disk)


def _rewrite(plan: Plan, job: Job, held: Hold, content: BaseImage | None) -> Outcome:
    """Build the new file beside the disk, then let it take the disk's name."""
    disk, directory = held.disk, job.host.directory
    with (
        staging.create(directory) as staged,
        admission.turn(plan, host=job.host, lock_path=job.lock_path) as has_taken,
    ):
        staging.sweep(directory)
        _carry_over(disk, staged)
        watch = _guarded(job.watch, held)
        execute.run_steps(
            plan,
            replace(job, watch=watch),
            target=staged,
            directory=staged.directory_fd,
            has_taken=has_taken,
        )
        if staged.adopted:
            _carry_over(disk, staged)
        with explained(
            fd=staged.directory_fd,
            path=directory,
            needed=plan.peak_bytes,
            action="finish the disk",
        ):
            outcome = execute.finish(job, staged)
            for layer in content.layers if content else ():
                if layer.fd != disk.fd:
                    base_image.refuse_if_changed(layer)
            held.require()
            _check_links(disk)
            staged.exchange(disk.path.name, old=disk.fd, still_alone=held.is_whole)
    return outcome


def _carry_over(disk: Disk, staged: Staged) -> None:
    try:
        attributes.carry_over(
            disk.fd,
            staged.fd,
            directory=staged.directory_fd,
            without={stamps.XATTR},
        )
    except OSError as error:
        reason = f"its owner or attributes can't be carried over: {error.strerror}"
        raise Unsupported(disk.path, reason) from error


def _guarded(watch: Watcher, held: Hold) -> Watcher:
    """Return a watcher whose progress gives up when the disk isn't ours any more."""

    def guarded(description: str, /) -> Progress:
        progress = watch(description)

        def advance(*, done: int, total: int) -> None:
            held.require()
            progress(done=done, total=total)

        return advance

    return guarded


def _recorded(outcome: Outcome, job: Job, disk: Disk) -> Outcome:
    """Stamp the disk if its stamp is another."""
    if disk.stamp == job.stamp:
        return replace(outcome, stamp=job.stamp)
    with _finishing(job, disk.fd):
        recorded: Stamp | None = stamps.write(disk.fd, job.stamp)
        os.fsync(disk.fd)
    return replace(outcome, stamp=recorded)


def _finishing(job: Job, fd: int) -> contextlib.AbstractContextManager[None]:
    """Explain a lack of room: for delayed allocation, or for the stamp's own block."""
    return explained(
        fd=fd, path=job.host.directory, needed=0, action="finish the disk in place"
    )
