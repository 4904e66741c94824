"""The disk to be changed: opened once, held against others, observed.

Here are the facts that a plan relies on; a dry run takes no lock and no lease.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from allocpolicy.contract.facts import (
    Allocation,
    BaseImage,
    DiskFormat,
    Facts,
    Observation,
)
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import (
    DestinationError,
    ImageError,
    InvalidRequest,
    NotEnoughSpace,
)
from allocpolicy.execute import admission
from allocpolicy.execute.hold import Hold, foreseen, held, rewrite_obstacle
from allocpolicy.image_cache import location
from allocpolicy.images import existing, image_file
from allocpolicy.images import reach as reaches
from allocpolicy.images.existing import Disk
from allocpolicy.observe import disk as observe
from allocpolicy.observe import host
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.storage import named_lock
from allocpolicy.storage.failure import refuse_failure
from allocpolicy.wording import printable, shell_word


@contextlib.contextmanager
def locked(path: Path, *, policy: Policy, dry_run: bool) -> Iterator[bool]:
    """Serialise changes of a disk: opening it would break another change's lease.

    Yield whether we already have the turn on the filesystem.
    """
    if dry_run:
        yield False
        return
    with all_locked([path], policy=policy) as has_turn:
        yield has_turn


@contextlib.contextmanager
def all_locked(paths: Iterable[Path], *, policy: Policy) -> Iterator[bool]:
    """Serialise changes of several disks, in the order that all commands keep to.

    Yield whether we already have the turn on each filesystem.
    """
    disks = [image_file.resolve(path) for path in paths]
    locks = [named_lock.key("disk", of=os.fsencode(one)) for one in disks]
    directories = dict.fromkeys(one.parent for one in disks)
    with (
        named_lock.hold_all(locks, lock_path=policy.lock_path, transient=True),
        admission.early_turns(directories, policy=policy) as has_turns,
    ):
        yield has_turns


def opened(
    path: Path,
    *,
    format: DiskFormat | None,
    dry_run: bool,
    force: bool = False,
    attached: bool = False,
    trusted: tuple[Path, ...] | None = None,
) -> contextlib.AbstractContextManager[Disk]:
    """Open the disk; for a dry run, only for reading.

    :param force: believe the format, whatever the content looks like.
    :param trusted: as for `existing.opened`, and so is ``attached``.
    :raises ImageError: when it can't be opened, or its format is unknown.
    """
    return existing.opened(
        path,
        declared=format,
        changing=not dry_run,
        force=force,
        trusted=trusted,
        attached=attached,
    )


def refuse_prepared(disk: Disk, *, policy: Policy) -> None:
    """Check that the disk is none of which others are clones; those have no stamp.

    :raises ImageError: when it is.
    """
    configured = policy.image_cache_dir
    if disk.stamp is None and location.is_prepared(disk.path, configured=configured):
        raise ImageError(disk.path, location.NO_DISK)


def hold(disk: Disk, *, dry_run: bool) -> contextlib.AbstractContextManager[Hold]:
    """Try to get exclusive use of the disk; a dry run doesn't try."""
    if dry_run:
        return contextlib.nullcontext(foreseen(disk))
    return held(disk)


def look(disk: Disk, *, policy: Policy) -> observe.Look:
    """Observe the disk.

    :raises ImageError: when it is malformed, or its data file can't be looked at.
    """
    around = surroundings(disk.fd, directory=disk.path.parent, policy=policy)
    found = observe.look(
        disk.fd, path=disk.path, format=disk.format, surroundings=around
    )
    observed = found.observation
    if observed.unknown_data is not None:
        raise ImageError(disk.path, observed.unknown_data)
    return found


def chain_problem(current: Observation, *, grows: bool) -> str | None:
    """Return why the disk isn't changed for what is below it, or None.

    A backing file is missing, which nothing here repairs, or may not be opened on the
    word of the disk's header. What is done in place doesn't need the format of one, but
    a growth needs the size.
    """
    if current.ends_unread and not grows:
        return None
    return current.broken_chain or current.unseen_chain


def problem(disk: Disk, current: Observation, *, grows: bool) -> str | None:
    """Return why the disk isn't changed in any way, or None."""
    if current.data_file is None:
        return None
    return _two_files(current, path=disk.path, grows=grows)


@contextlib.contextmanager
def facts(
    hold: Hold,
    look: observe.Look,
    *,
    meets: bool,
    policy: Policy,
    obstacle: str | None = None,
) -> Iterator[tuple[Facts, NotEnoughSpace | None]]:
    """Yield the facts that a plan relies on; the disk and its backing files stay open.

    They aren't opened when there is nothing to do, or when a rewrite is impossible. It
    may be so only for a lack of space: then that is the second.

    :param obstacle: what else prevents a rewrite.
    """
    disk, directory = hold.disk, hold.disk.directory
    obstacle = rewrite_obstacle(hold, look.observation) or obstacle
    if meets:  # no file is made to find out what the filesystem can do
        found = host.of_disk(disk.fd, directory=directory, policy=policy)
        yield _facts(found, None, None, obstacle=obstacle), None
        return
    from allocpolicy.images import content

    with contextlib.ExitStack() as stack:
        base = lack = None
        if obstacle is None:
            base, obstacle = _opened(disk, look, policy=policy, stack=stack)
        file = content.as_file(disk) if base else None
        images = (base, file) if base and file else ()
        try:
            found = host.storage(directory, policy=policy, images=images)
        except (DestinationError, NotEnoughSpace) as error:
            # No file can be made there, which work in place doesn't need.
            stack.enter_context(_told_as(error))
            found = host.of_disk(disk.fd, directory=directory, policy=policy)
            if obstacle is None and isinstance(error, NotEnoughSpace):
                lack = error
            base, obstacle = None, obstacle or str(error)
        yield _facts(found, base, file, obstacle=obstacle), lack


def _opened(
    disk: Disk, look: observe.Look, *, policy: Policy, stack: contextlib.ExitStack
) -> tuple[BaseImage | None, str | None]:
    """Return what the guest reads, open for the stack's lifetime, or why it isn't."""
    try:
        from allocpolicy.images import content

        reach = reaches.of(disk.fd, trusted=policy.trusted_base_directories)
        below = content.opened(disk, checked=look.checked, reach=reach)
        return stack.enter_context(below), None
    except ImageError as error:
        if isinstance(error.__cause__, OSError):
            refuse_failure(error.__cause__, path=error.path, action="open it")
        return None, error.reason if error.path == disk.path else str(error)


def _facts(
    found: host.Storage,
    base: BaseImage | None,
    file: BaseImage | None,
    *,
    obstacle: str | None,
) -> Facts:
    if base is None or file is None:
        return Facts(host=found.host, base=None, obstacle=obstacle)
    return Facts(
        host=found.host,
        base=base,
        shares_base=base.plain and found.shares(base),
        file=file,
        shares_file=found.shares(file),
    )


@contextlib.contextmanager
def _told_as(error: DestinationError | NotEnoughSpace) -> Iterator[None]:
    """Raise the error itself where it is what keeps the disk from being rewritten."""
    try:
        yield
    except InvalidRequest as refusal:
        if str(error) in refusal.reason:
            raise error from refusal
        raise


def _two_files(current: Observation, *, path: Path, grows: bool) -> str:
    """Return why a disk with an external data file isn't changed, and what helps."""
    data = current.data_file
    assert data is not None
    named = printable(str(data.path))
    reason = f"its data is in {named}, an external data file; only disks of one"
    reason = f"{reason} file are changed"
    if grows:
        return f"{reason}; grow it with qemu-img resize, then run allocpolicy apply"
    if current.allocation is not Allocation.THIN:
        return reason
    return (
        f"{reason}; reserve both with fallocate -l {data.full_size}"
        f" {shell_word(str(data.path))} and fallocate -l {current.reserved_size}"
        f" {shell_word(path)}, then run apply again"
    )
