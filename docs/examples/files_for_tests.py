"""Test a strategy on a real filesystem, with a base image of known content."""

from pathlib import Path

from allocpolicy import DiskFormat, delegate
from allocpolicy.testing import (
    BaseFile,
    BaseKind,
    Unavailable,
    facts_on,
    make_base,
    mounted,
    opened,
    request,
    run_plan,
)


def copies(directory: Path) -> None:
    """Make a disk from a base image, and read it."""
    base: BaseFile = make_base(directory, BaseKind.RAW)
    with opened(base) as image:
        asked = request(DiskFormat.RAW, base=image, virtual_size=image.virtual_size)
        facts = facts_on("ext4", base=image, directory=directory)
        plan = delegate("space").plan(request=asked, facts=facts)
        disk = run_plan(plan, directory / "disk.raw")
    assert disk.read_bytes() == base.content


copies(Path.cwd())
try:
    with mounted("tmpfs", size=16 << 20, directory=Path.cwd()) as directory:
        copies(directory)
except Unavailable as reason:  # it takes root
    print(reason)
