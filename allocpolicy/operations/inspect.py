"""Looking at an existing, untrusted disk: read-only, without locks."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from allocpolicy import arguments
from allocpolicy.arguments import StrPath
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Attachment, Choice
from allocpolicy.images import existing
from allocpolicy.images.existing import Disk
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.operations import snapshots
from allocpolicy.registry.judge import Judge
from allocpolicy.report.inspection import Inspection
from allocpolicy.resolve import checks
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage.failure import named


def inspect(
    path: StrPath,
    *,
    policy: Policy | None = None,
    format: DiskFormat | str | None = None,
    force: bool = False,
    given: Choice | None = None,
) -> Inspection:
    """Return what the disk at ``path`` is, judged by its stamp, or else by ``given``.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :param format: the format of a disk without a stamp.
    :param force: believe the format, whatever the content looks like.
    :raises ImageError: when it cannot be opened, or is malformed.
    """
    disk = arguments.path(path, "path")
    declared = (
        None if format is None else arguments.member(DiskFormat, format, "format")
    )
    arguments.flag(force, "force")
    if given is not None:
        arguments.instance(Choice, given, "given")
    policy = in_force(policy)
    with (
        named(disk, action="look at the disk"),
        opened(disk, format=declared, force=force, policy=policy) as found,
    ):
        return inspect_open(found, policy=policy, given=given)


def opened(
    path: Path, *, format: DiskFormat | None, force: bool = False, policy: Policy
) -> contextlib.AbstractContextManager[Disk]:
    """Open a disk to be inspected; it may have its policy from the disks below it.

    :raises ImageError: when it can't be opened, or its format is unknown.
    """
    trusted = policy.trusted_base_directories if policy.inherits else None
    return existing.opened(path, declared=format, force=force, trusted=trusted)


def inspect_open(
    disk: Disk, *, policy: Policy, given: Choice | None, wanted: Choice | None = None
) -> Inspection:
    """Return what an open disk is, as `inspect` does.

    :param wanted: the policy that its VM's definition has; a stamp that is the answer
        to another is out of date.
    :raises ImageError: when it is malformed.
    """
    found = observe.look(
        disk.fd,
        path=disk.path,
        format=disk.format,
        surroundings=surroundings(disk.fd, directory=disk.path.parent, policy=policy),
    )
    observed = found.observation
    stamp = disk.policy
    if wanted is not None and (stamp is None or stamp.requested != wanted):
        stamp, given = None, wanted
    choice = stamp.effective if stamp else given
    judge = Judge(refusal=functools.partial(checks.stamp_refusal, policy=policy))
    attached: Attachment | str = "it has no stamp"
    if choice:
        attached = judge.attached(choice, observed, machines=policy.machines)
    return Inspection(
        disk=disk.path,
        stamp=disk.stamp,
        inherited_from=disk.inherited.disk if disk.inherited else None,
        uncovered=snapshots.uncovered(disk, observed, policy=policy),
        observed=observed,
        verdict=judge.verdict(choice, observed) if choice else None,
        attachment=attached if isinstance(attached, Attachment) else None,
        unattachable=attached if isinstance(attached, str) else None,
    )
