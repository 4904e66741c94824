"""Which files guests write to instead of a disk: the overlays on top of it.

An external snapshot leaves the disk as it is, and the guest writes to a new overlay on
it. Overlays are found by looking at the files beside the disk; files are compared by
inode, whatever a backing name looks like.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Use
from allocpolicy.images import overlay
from allocpolicy.images import stamp as stamps
from allocpolicy.images.overlay import Overlay
from allocpolicy.images.reach import Reach
from allocpolicy.observe.sighting import Sighting
from allocpolicy.observe.walk import Found
from allocpolicy.record import replace
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.tree import Listing

_NAMED = 3  # of many files; the others are counted


class Covering:
    """The overlays that were found, by the file that each is on."""

    def __init__(
        self, overlays: Iterable[Overlay], *, trusted: tuple[Path, ...] = ()
    ) -> None:
        self._on: dict[Inode, dict[Inode, Overlay]] = defaultdict(dict)
        for one in overlays:
            below = _file(one)
            if below is not None and below != one.inode and not one.raw:
                self._on[below].setdefault(one.inode, one)
        self._trusted = trusted

    def uncovered(self, disk: Inode, *, in_use: Use | None) -> str | None:
        """Return in words what guests write to instead, if it has no policy, or None.

        If the topmost overlay has a policy, those below it need none.

        :param in_use: what QEMU's lock bytes say about the disk, if known. One that
            QEMU writes to has no overlay in use: QEMU doesn't allow it.
        """
        if in_use is Use.WRITING:
            return None
        return _words(_sorted(self._tops(disk)))

    def topmost(self, disk: Inode, *, in_use: Use | None) -> Sequence[Overlay]:
        """Return the topmost overlays on a disk, whether they have a policy or not."""
        if in_use is Use.WRITING:
            return ()
        return _sorted(self._tops(disk, with_policy=True))

    def _tops(self, disk: Inode, *, with_policy: bool = False) -> Iterator[Overlay]:
        """Yield the topmost overlays, each once; chains may be long, or loops."""
        waiting, passed = [disk], {disk}
        while waiting:
            for one in self._above(waiting.pop()):
                if one.inode in passed or (one.has_policy and not with_policy):
                    continue
                passed.add(one.inode)
                if one.written or not any(self._above(one.inode)):
                    yield one
                else:
                    waiting.append(one.inode)

    def _above(self, below: Inode) -> Iterator[Overlay]:
        """Yield the overlays on a file that who may write to them may read.

        QEMU could not open the others.
        """
        for one in self._on.get(below, {}).values():
            assert one.backing is not None
            reach = Reach(writers=one.writers, trusted=self._trusted)
            if one.has_policy or reach.includes(one.backing):
                yield one


def look(
    files: Sequence[Found],
    *,
    seen: Iterable[Sighting],
    listed: Callable[[str], Listing],
    trusted: tuple[Path, ...],
) -> Covering:
    """Return the overlays among files, and among those beside the ones that are named.

    :param seen: what was seen of the files, which are not opened again.
    """
    overlays = [one for each in seen if (one := _seen(each)) is not None]
    passed = {one.path for one in files}
    leases = Leases(last=0)  # a few files: of a directory in which others are at work
    for directory in {os.path.dirname(one.path) for one in files if one.named}:
        for path, _ in listed(directory).files:
            if path in passed:
                continue
            with contextlib.suppress(OSError):  # gone, or not ours to read
                if (one := overlay.find(Path(path), leases=leases)) is not None:
                    overlays.append(one)
    return Covering(overlays, trusted=trusted)


def _seen(one: Sighting) -> Overlay | None:
    """Return a file as an overlay; one that was observed as a disk has a policy.

    Not so one that was left without what is requested of it, when its VM started.
    """
    found, observed = one.overlay, one.observed
    if found is None or observed is None:
        return found
    raw = observed.format is DiskFormat.RAW
    short = one.stamp is not None and stamps.promises_nothing_yet(one.stamp)
    return replace(found, has_policy=not short, raw=raw)


def _sorted(overlays: Iterable[Overlay]) -> Sequence[Overlay]:
    return sorted(overlays, key=lambda one: one.path)


def _file(one: Overlay) -> Inode | None:
    """Return which file the overlay is on; None when that can't be found out."""
    if one.backing is None:
        return None
    try:
        return inode(os.stat(one.backing))
    except (OSError, ValueError):
        return None


def _words(tops: Sequence[Overlay]) -> str | None:
    if not tops:
        return None
    first, *others = tops
    if not others:
        return f"the guest writes to {first.path}, which has no policy"
    names = ", ".join(str(one.path) for one in tops[:_NAMED])
    more = len(tops) - _NAMED
    names += f" and {more} more" if more > 0 else ""
    return (
        f"{len(tops)} guests share it and write to overlays on it, which have no"
        f" policy: {names}"
    )
