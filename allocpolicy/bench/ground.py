"""What all disks start from: an image, and a copy of it that is mapped in advance."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy import DiskFormat, Order, Policy, provision
from allocpolicy.bench.recipes import Ground, policy_in
from allocpolicy.bench.regions import MIB, SCATTERED, Regions
from allocpolicy.report.base_inspection import BaseInspection

_EXTENT = MIB // 4  #: bytes of data in each MiB of the image, the rest a hole


def sizes(*, size: int, image: BaseInspection | None) -> tuple[int, int]:
    """Return the virtual size of the image, and the most bytes that all of it takes."""
    if image is None:
        return SCATTERED * size, 2 * SCATTERED * size * _EXTENT // MIB
    taken = 2 * image.data_bytes + (image.converted_bytes or 0)
    return image.virtual_size, taken


def made(
    place: Path, *, size: int, image: BaseInspection | None, policy: Policy
) -> tuple[Ground, Regions]:
    """Make the images in a directory; return them, and the parts of the disks.

    Scattered writes fall on data of the image as well as on its holes.

    :param image: what the disks start from; None: an image that is written for it.
    :param policy: the host's.
    :raises Error: when that isn't a safe image, or there is no room for it.
    """
    base, mapped = place / "base", place / "mapped"
    policy = policy_in(place, host=policy)
    if image is None:
        _write(base, size=SCATTERED * size)
    else:
        _copy(image, base, policy=policy)
    order = Order(
        destination=mapped,
        base=base,
        base_format="raw",
        extra_specs={"allocpolicy:strategy": "performance"},
    )
    provision(order, policy=policy)
    regions = Regions(size=size, base_size=base.stat().st_size)
    return Ground(
        base=base, mapped=mapped, virtual_size=regions.virtual_size, policy=policy
    ), regions


def _write(path: Path, *, size: int) -> None:
    content = os.urandom(_EXTENT)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, MIB):
            os.pwrite(file.fileno(), content, offset)
        os.fsync(file.fileno())


def _copy(image: BaseInspection, path: Path, *, policy: Policy) -> None:
    """Copy what a guest would see of an image, checked as every base image is."""
    order = Order(
        destination=path,
        base=image.image,
        base_format=image.format,
        format=DiskFormat.RAW,
        extra_specs={"allocpolicy:strategy": "none"},
    )
    provision(order, policy=policy)
