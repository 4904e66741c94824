"""What a flavor says of the sizes of an instance's disks.

The output of ``openstack flavor list --long`` has ``Disk`` and ``Ephemeral`` in GiB and
``Swap`` in MiB (Nova's API: disk, OS-FLV-EXT-DATA:ephemeral, swap). 0 means that there
is no such disk, and for the root disk that its base image has the say.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import size
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import InvalidRequest
from allocpolicy.schema import Invalid

Sizes = Mapping[DiskRole, int]  #: bytes; 0: none

_OPENSTACK = {
    DiskRole.ROOT: ("Disk", 1 << 30, "GiB"),
    DiskRole.EPHEMERAL: ("Ephemeral", 1 << 30, "GiB"),
    DiskRole.SWAP: ("Swap", 1 << 20, "MiB"),
}
_MOST = 1 << 31  # of any unit: beyond that, a number is a mistake


def of_openstack(row: Mapping[str, object]) -> Sizes:
    """Return the sizes in a flavor of openstack's list.

    :raises Invalid: when one is not a whole number.
    """
    found = {}
    for role, (key, unit, name) in _OPENSTACK.items():
        if key in row:
            found[role] = _count(row[key], key=key, unit=name) * unit
    return found


def of_file(given: Mapping[str, str | int]) -> Sizes:
    """Return the sizes in a flavor of our own files, valid by their schema.

    :raises Invalid: when one is not written as a size.
    """
    found = {}
    for word, value in given.items():
        try:
            found[DiskRole(word)] = size.parse(str(value))
        except InvalidRequest as error:
            raise Invalid(f"sizes.{word}: {error}") from error
    return found


def of_disk(sizes: Sizes, *, disk_role: DiskRole, flavor: str) -> int | None:
    """Return the size of a disk in bytes; None if the flavor leaves it open.

    :param flavor: names it, for the error.
    :raises InvalidRequest: when the flavor has no such disk.
    """
    found = sizes.get(disk_role)
    if found or found is None:
        return found
    if disk_role is DiskRole.ROOT:
        return None
    raise InvalidRequest(
        f"{flavor} has no {disk_role} disk: its size is 0; give the disk's --size, or"
        " choose another flavor"
    )


def _count(value: object, *, key: str, unit: str) -> int:
    """Return a number as openstack's client prints it: "" is none, in old ones."""
    text = str(value).strip()
    if value is None or text == "":
        return 0
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= _MOST:
        raise Invalid(f"{key}: {value!r} is not a whole number of {unit}")
    return int(text)
