"""Laws about a disk that QEMU has open, and about how it opens it."""

from __future__ import annotations

from allocpolicy import (
    Error,
    InvalidRequest,
    NotEnoughSpace,
    Observation,
    Unsupported,
    apply,
    inspect,
)
from allocpolicy.testing import qemu
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    at_its_edges,
    executed,
    plainly,
    require,
)
from allocpolicy.testing.making import made_by, new_disk
from allocpolicy.testing.subject import SIZE, Place

_BLOCK = 64 << 10
_ORIGINS = ("none", None)  # what made the disk; None: the strategy itself


@executed(
    "attachments-open",
    "QEMU opens a new disk as it is to be attached, and reads and writes its ends.",
    where=at_its_edges,
)
def attachments_open(place: Place) -> None:
    report = new_disk(place)
    assert report.attachment is not None
    size = report.observed.virtual_size if report.observed else 0
    with qemu.open_in_qemu(
        place.disk, place.format, attachment=report.attachment
    ) as guest:
        for offset in (0, size - 4096):
            guest.write(offset=offset, length=4096, pattern=7)
            guest.expect(offset=offset, length=4096, pattern=7)
        guest.flush()


@executed(
    "beside-a-vm-nothing-is-lost",
    "While QEMU has the disk open, apply refuses in one line, or loses nothing and"
    " writes nothing.",
    where=plainly,
)
def beside_a_vm_nothing_is_lost(place: Place) -> None:
    tried = [_changed_beside(place, origin) for origin in _ORIGINS]
    if not any(tried):
        raise NotApplicable("it is refused here")


def _changed_beside(place: Place, origin: str | None) -> bool:
    """Apply the strategy to a disk whose guest runs; return whether that was done.

    :raises Broken: when the guest notices.
    """
    if not made_by(origin, place):
        return False
    try:
        with qemu.open_in_qemu(place.disk, place.format) as guest:
            guest.write(offset=0, length=_BLOCK, pattern=1)
            guest.flush()
            done = _applied(place)
            guest.expect(offset=0, length=_BLOCK, pattern=1)
            guest.expect(offset=_BLOCK, length=SIZE - _BLOCK, pattern=0)
            guest.write(offset=SIZE - _BLOCK, length=_BLOCK, pattern=2)
            guest.flush()
        with qemu.open_in_qemu(place.disk, place.format) as guest:
            guest.expect(offset=0, length=_BLOCK, pattern=1)
            guest.expect(offset=SIZE - _BLOCK, length=_BLOCK, pattern=2)
    finally:
        place.disk.unlink(missing_ok=True)
    return done


def _applied(place: Place) -> bool:
    """Apply the strategy; return whether it was not refused.

    :raises Broken: when the disk's file was replaced, or written to.
    """
    inode, before = place.disk.stat().st_ino, inspect(place.disk, policy=place.policy)
    try:
        apply(place.change(), policy=place.policy)
    except (InvalidRequest, Unsupported, NotEnoughSpace) as refusal:
        require(len(str(refusal).splitlines()) == 1, f"it refuses: {refusal}")
        return False
    except Error as error:
        raise Broken(f"apply beside a running VM: {error}") from error
    told = "apply replaces the disk, and the VM goes on with the old one"
    require(place.disk.stat().st_ino == inode, told)
    after = inspect(place.disk, policy=place.policy)
    more = _written(after.observed) - _written(before.observed)
    require(more <= 0, f"apply writes {more} bytes to a disk that a VM has open")
    return True


def _written(observed: Observation) -> int:
    return observed.extents.written if observed.extents else 0
