"""Which part of a disk each write of the measurement is for: none has two.

    0            scattered writes, by one way of I/O
    size         scattered writes, by another
    2 size       scattered writes, by the third
    3 size       dd in a guest, where the base image ends
    4 size       sequential writes outside
    5 size       the disk's end

So every part is written for the first time by what is timed.
"""

from __future__ import annotations

from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass

MIB = 1 << 20
BLOCK = 4096  #: bytes of a scattered write
# Each write is in a cluster of its own, at any place in it.
STEP = 86_016  #: bytes from one scattered write to the next
SMALLEST = 8 * MIB
SCATTERED = 3  #: how many parts are for scattered writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The parts of a disk, each of ``size`` bytes.

    ``base_size`` is the virtual size of the image that it starts from.
    """

    size: int
    base_size: int

    @property
    def requests(self) -> int:
        """How many scattered writes a part takes."""
        return self.size // STEP

    @property
    def dd(self) -> int:
        """Where dd begins: no base image has data there."""
        return max(SCATTERED * self.size, -(-self.base_size // MIB) * MIB)

    @property
    def sequential(self) -> int:
        """Where the sequential writes begin."""
        return self.dd + self.size

    @property
    def virtual_size(self) -> int:
        """The disk's size."""
        return self.sequential + self.size


def checked(size: int) -> int:
    """Return how much dd writes, in bytes.

    :raises InvalidRequest: when that can't be measured.
    """
    if size % MIB or size < SMALLEST:
        raise InvalidRequest(
            f"--size is {size}: dd writes blocks of 1 MiB, at least {SMALLEST >> 20}"
        )
    return size
