"""The layouts: the original proposal's, those of strategies, and those of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from allocpolicy import DiskFormat
from allocpolicy.bench.recipes import Commands, Provisioned, Recipe
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass
from allocpolicy.registry import installed
from allocpolicy.wording import choices

_MB = 1_000_000
#: bytes a second that the proposal says of its six layouts, by their numbers in it: dd
#: of 1 GiB with fdatasync, in a guest, and the last in no VM
PROPOSED = {
    1: 105 * _MB,
    2: 100 * _MB,
    3: 55 * _MB,
    4: 52 * _MB,
    5: 52 * _MB,
    6: 120 * _MB,
}
_CREATE = "create -q -f qcow2"
_COPY = "convert -n --target-is-zero -f raw -O qcow2 {base} {disk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way to lay out a disk: its name, how it is made, and how QEMU opens it.

    ``recipe``: None for a file that is in no VM. ``original``: its number in the
    proposal. ``preallocates``: QEMU opens it through the filter that allocates ahead
    of what is written.
    """

    name: str
    recipe: Recipe | None
    format: DiskFormat = DiskFormat.QCOW2
    original: int | None = None
    preallocates: bool = False

    @property
    def ours(self) -> Provisioned | None:
        """How allocpolicy makes it, if it does."""
        return self.recipe if isinstance(self.recipe, Provisioned) else None

    def node(self, disk: Path, *, aio: str) -> dict[str, Any]:
        """Return the options of QEMU's block drivers that open the disk.

        QEMU runs in its directory: a path may have bytes that JSON can't say. Discards
        and zeroes are written as they come.
        """
        file: dict[str, Any] = {"driver": "file", "filename": disk.name, "aio": aio}
        if self.preallocates:
            file = {"driver": "preallocate", "file": file}
        as_it_comes = {"discard": "ignore", "detect-zeroes": "off"}
        return {"driver": str(self.format), **as_it_comes, "file": file}


def chosen(names: Iterable[str]) -> tuple[Layout, ...]:
    """Return the layouts of these names, or all of them.

    :raises InvalidRequest: when one has no such name.
    """
    known = {one.name: one for one in every()}
    wanted = dict.fromkeys(names)
    for name in wanted:
        if name not in known:
            allowed = choices(known, nearest_to=name)
            raise InvalidRequest(f"--layout {name!r} is none; {allowed}")
    return tuple(one for name, one in known.items() if not wanted or name in wanted)


def every() -> Iterator[Layout]:
    """Yield all layouts: ours first, and of these what takes least before others."""
    yield _ours("none")
    yield _ours("performance", layout="backed")
    yield _ours("performance", original=2)
    for data in _other_data("performance"):
        yield _ours("performance", data=data)
    yield _ours("space", original=3)
    yield _ours("none", format=DiskFormat.RAW, original=1)
    yield from _of_qemu()
    yield Layout(name="file, no VM", recipe=None, format=DiskFormat.RAW, original=6)


def _ours(
    strategy: str,
    *,
    format: DiskFormat = DiskFormat.QCOW2,
    original: int | None = None,
    **options: str,
) -> Layout:
    said = [strategy, *(f"{name}={value}" for name, value in options.items())]
    if format is DiskFormat.RAW:
        said.append("raw")
    return Layout(
        name=" ".join(said),
        recipe=Provisioned(strategy=strategy, options=options, format=format),
        format=format,
        original=original,
    )


def _other_data(strategy: str) -> list[str]:
    """Return what the option ``data`` of a strategy takes besides its default."""
    properties: Mapping[str, Any] = installed.load(strategy).options_schema
    data = properties["properties"]["data"]
    return [one for one in data["enum"] if one != data["default"]]


def _of_qemu() -> Iterator[Layout]:
    """Yield what qemu-img makes, and what others that use it do."""
    overlay = f"{_CREATE} -b {{base}} -F raw {{disk}} {{size}}"
    on_mapped = f"{_CREATE} -b {{mapped}} -F qcow2 {{disk}} {{size}}"
    yield _by_qemu("overlay", overlay, original=4)
    yield _by_qemu("overlay, mapped base", on_mapped, original=5)
    yield Layout(
        name="qemu-img: overlay, preallocate filter",
        recipe=Commands(lines=(overlay,)),
        preallocates=True,
    )
    # what Proxmox makes linked clones with
    extended = "-o extended_l2=on,cluster_size=128k,preallocation=metadata"
    line = f"{_CREATE} {extended} -b {{base}} -F raw {{disk}} {{size}}"
    yield _by_qemu("overlay, extended L2, 128K", line)
    for mode in ("metadata", "falloc", "full"):
        create = f"{_CREATE} -o preallocation={mode} {{disk}} {{size}}"
        yield _by_qemu(f"copy, preallocation={mode}", create, _COPY)


def _by_qemu(name: str, *lines: str, original: int | None = None) -> Layout:
    return Layout(
        name=f"qemu-img: {name}", recipe=Commands(lines=lines), original=original
    )
