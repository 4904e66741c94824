"""The sizes that a disk may have: multiples of what direct I/O needs of a raw disk.

QEMU doesn't open a raw disk of another size with cache=none. A qcow2 may have any, but
an operator's own alignment holds for both formats.
"""

from __future__ import annotations

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.qcow2.geometry import MAX_VIRTUAL_SIZE, SECTOR_SIZE
from allocpolicy.record import dataclass
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeAlignment:
    """Of how many bytes a disk's size must be a multiple, and why."""

    size: int
    reason: str = "a disk consists of sectors"

    def rounded(self, size: int) -> int:
        """Return the size, or the next that is aligned, in bytes."""
        return -(-size // self.size) * self.size

    def check(self, size: int) -> None:
        """Check that a size that was asked for is aligned.

        :raises InvalidRequest: when it is not.
        """
        if size % self.size:
            nearest = self.rounded(size)
            raise InvalidRequest(
                f"size {size}: not a multiple of {self.size} bytes ({self.reason});"
                f" the next that is one: {format_size(nearest)}{_units(size)}"
            )


def _units(size: int) -> str:
    """Return which units are meant by which letters, for a size in powers of 1000."""
    if size % 1000:
        return ""
    return "; KB, MB and GB are powers of 1000, and K, M and G powers of 1024"


def of(policy: Policy, *, format: DiskFormat, direct_io: int | None) -> SizeAlignment:
    """Return the alignment of a disk's size.

    :param direct_io: the alignment that direct I/O needs on the disk's storage, in
        bytes; None if there is no direct I/O.
    """
    if policy.size_alignment:
        reason = "[allocpolicy] size_alignment"
        return SizeAlignment(size=policy.size_alignment, reason=reason)
    if format is DiskFormat.RAW and direct_io is not None:
        reason = "the alignment without which QEMU opens no raw disk with cache=none"
        return SizeAlignment(size=direct_io, reason=reason)
    return SizeAlignment(size=SECTOR_SIZE)


def check_size(virtual_size: int) -> None:
    """Check that a disk can have this virtual size, in bytes.

    :raises InvalidRequest: when it cannot.
    """
    if not 0 < virtual_size <= MAX_VIRTUAL_SIZE:
        raise InvalidRequest(
            f"size {virtual_size}: a disk's size is a positive multiple of"
            f" {SECTOR_SIZE} bytes, at most {format_size(MAX_VIRTUAL_SIZE)}"
        )
    SizeAlignment(size=SECTOR_SIZE).check(virtual_size)
