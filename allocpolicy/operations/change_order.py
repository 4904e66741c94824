"""What is wanted of an existing disk, and which policy, request and size that means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.arguments import Size, StrPath
from allocpolicy.contract.facts import DiskFormat, Observation, Use
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.execute.hold import IN_USE, Hold
from allocpolicy.execute.rewrite_limits import RewriteLimits
from allocpolicy.fields import fit_fields
from allocpolicy.images.existing import Disk
from allocpolicy.images.stamp import Stamp
from allocpolicy.operations import size_alignment
from allocpolicy.record import dataclass, field, replace
from allocpolicy.resolve import labels
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.renewal import Renewal
from allocpolicy.resolve.selection import Selection, resolve, resolve_stamp
from allocpolicy.wording import amount, apart

_ONLY_FOUND = (
    "nothing but its header says that it is an overlay, and a rewrite copies what is"
    " below it; if it is one, name it instead of the disk below"
)
ONLINE_RESIZE = (
    "it is in use: grow a running VM's disk with virsh blockresize DOMAIN PATH SIZE,"
    " or QMP block_resize, and then run allocpolicy apply; or stop the VM"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the user wants of an existing disk.

    Without a flavor and extra specs the disk's stamp is its policy, as it would be
    today: with the ``flavors`` and the operator's options of today.
    """

    disk: Path  #: the disk's path
    #: the format of a disk without a stamp; None: not known
    format: DiskFormat | None = None
    force: bool = False  #: believe the format, whatever the content looks like
    #: bytes, for `resize` alone: the new size, or what is added
    virtual_size: Size | None = None
    added: bool = False  #: ``virtual_size`` is added to the disk's own
    disk_role: DiskRole = DiskRole.ROOT  #: which of the instance's disks it is
    flavor: Flavor | None = None  #: the flavor that decides; None: the stamp does
    #: today's flavors by name, for the one that the stamp names
    flavors: Mapping[str, Flavor] | None = None
    #: add to the flavor's, or override them
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    #: add to those of the stamp, or override them; an empty one removes it
    labels: Mapping[str, str] = field(default_factory=dict)
    allow_thin: bool = False  #: storage that the policy doesn't need may be given back
    dry_run: bool = False  #: plan, and do nothing
    #: of the dry runs of several disks: each finds those before it done, and the space
    #: that they leave; None: it is the only one
    rehearsal: Rehearsal | None = None
    #: a disk without a stamp has the policy of the nearest one below it, as with
    #: `Policy.inherits`
    chain: bool = False
    #: a disk without a stamp, for which nothing is chosen, has the operator's default
    by_default: bool = False
    #: nobody named the disk: it was found to be an overlay by its header alone
    found: bool = False
    #: a VM is attached to just this path, in just this format, and its definition
    #: decides: the disk's stamp is brought to it, whatever that says
    attached: bool = False
    #: how far the disk may be rewritten; None: as its policy needs it
    limits: RewriteLimits | None = None
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(  # noqa: PLR0913  (its fields)
            self,
            *,
            disk: StrPath,
            format: DiskFormat | str | None = ...,
            force: bool = ...,
            virtual_size: int | str | None = ...,
            added: bool = ...,
            disk_role: DiskRole | str = ...,
            flavor: Flavor | None = ...,
            flavors: Mapping[str, Flavor] | None = ...,
            extra_specs: Mapping[str, str] = ...,
            labels: Mapping[str, str] = ...,
            allow_thin: bool = ...,
            dry_run: bool = ...,
            rehearsal: Rehearsal | None = ...,
            chain: bool = ...,
            by_default: bool = ...,
            found: bool = ...,
            attached: bool = ...,
            limits: RewriteLimits | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


def obstacle(change: Change, disk: Disk, *, policy: Policy) -> str | None:
    """Return why a disk that nobody named must not be rewritten, or None."""
    only_found = change.found and disk.stamp is None and not policy.inherits
    return _ONLY_FOUND if only_found else None


def heritage(change: Change, *, policy: Policy) -> tuple[Path, ...] | None:
    """Return how far a disk without a stamp inherits; None if it doesn't."""
    inherits = change.chain or policy.inherits
    return policy.trusted_base_directories if inherits else None


def selection(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    """Return the policy to bring the disk to, and the labels that it will have.

    :raises InvalidRequest: when none is given, and the disk has no stamp; and for
        labels that can't be.
    """
    chosen = _chosen(change, disk=disk, policy=policy)
    changed = labels.changed(disk.policy, change.labels)
    return replace(chosen, asked=labels.given(chosen.asked, changed))


def _chosen(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    if change.flavor is not None or change.extra_specs or change.attached:
        return resolve(
            policy=policy,
            disk_role=change.disk_role,
            flavor=change.flavor,
            overrides=change.extra_specs,
        )
    stamp = disk.policy
    if stamp is None and change.by_default:
        return resolve(policy=policy, disk_role=change.disk_role)
    if stamp is None:
        raise InvalidRequest(
            f"{disk.path}: it has no stamp; choose its policy, for example with"
            " --strategy"
        )
    if change.virtual_size is None:
        renewal = Renewal(policy=policy, flavors=change.flavors)
        if (today := _today(renewal, stamp, path=disk.path)) is not None:
            return today
    return resolve_stamp(
        stamp.requested, path=disk.path, policy=policy, asked=stamp.asked
    )


def _today(renewal: Renewal, stamp: Stamp, *, path: Path) -> Selection | None:
    """Return what the disk's stamp asks for as it would be today, if that is known.

    :raises ImageError: when it can't be had any more.
    """
    try:
        return renewal.selection(stamp)
    except InvalidRequest as error:
        reason = f"what its stamp asks for can't be had today: {error}"
        remedy = "choose its policy, for example with --strategy"
        raise ImageError(path, f"{reason}; {remedy}") from error


def request(
    change: Change,
    operation: Operation,
    *,
    hold: Hold,
    current: Observation,
    policy: Policy,
    labels: Mapping[str, str],
) -> Request:
    """Return what a strategy is asked for.

    :raises InvalidRequest: (its subclasses) when the disk can't grow as is wanted.
    """
    size = current.virtual_size
    if operation is Operation.RESIZE:
        size = _grown_size(change, current=current, hold=hold, policy=policy)
    return Request(
        operation=operation,
        destination=hold.disk.path,
        virtual_size=size,
        format=hold.disk.format,
        disk_role=change.disk_role,
        allow_thin=change.allow_thin,
        labels=labels,
    )


def _grown_size(
    change: Change, *, current: Observation, hold: Hold, policy: Policy
) -> int:
    """Return the virtual size to grow to, in bytes.

    :raises InvalidRequest: when it would shrink the disk, or is not a valid size.
    :raises ImageError: when a VM has the disk open.
    """
    wanted, present = change.virtual_size, current.virtual_size
    if wanted is None:
        raise InvalidRequest("no size: give the disk's new size")
    alignment = size_alignment.of(
        policy, format=current.format, direct_io=current.direct_io_alignment
    )
    if change.added:
        # The size of a disk that another tool made need not be aligned.
        wanted = alignment.rounded(wanted + present) if wanted else present
    if wanted < present:
        has, less = apart(present, wanted)
        raise InvalidRequest(
            f"{change.disk}: it has {has}, and shrinking it to {less} would cut off"
            f" {amount(present - wanted)} of the guest's data: refused"
        )
    if wanted != present:
        alignment.check(wanted)
        size_alignment.check_size(wanted)
        if current.in_use is not Use.NONE or hold.problem == IN_USE:
            raise ImageError(change.disk, ONLINE_RESIZE)
        if hold.problem is not None:
            raise hold.refusal(hold.problem)
    return wanted
