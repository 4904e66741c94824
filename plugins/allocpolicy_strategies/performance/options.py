"""The options of performance, and what they require of a filesystem."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import Facts, Unsupported

CLUSTER_SIZES = {f"{kib}K": kib << 10 for kib in (64, 128, 256, 512)} | {
    "1M": 1 << 20,
    "2M": 2 << 20,
}


class Wanted:
    """What the options ask for."""

    def __init__(self, *, data: str, cluster_size: str, layout: str) -> None:
        self.data = data
        self.cluster_size = cluster_size
        self.layout = layout

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Wanted:
        """Return the validated options with their types."""
        return cls(
            data=str(options["data"]),
            cluster_size=str(options["cluster_size"]),
            layout=str(options["layout"]),
        )

    @property
    def backed(self) -> bool:
        """Return whether it keeps the base image as its backing file."""
        return self.layout == "backed"

    @property
    def thin(self) -> bool:
        """Return whether storage is allocated as the guest writes."""
        return self.data in ("sparse", "copied")

    @property
    def shares(self) -> bool:
        """Return whether blocks may be another file's as well."""
        return self.data == "sparse"

    @property
    def filled(self) -> bool:
        """Return whether the whole disk is written at creation."""
        return self.data == "full"

    def reserved_by(self, facts: Facts) -> bool:
        """Return whether storage is reserved with fallocate."""
        return not self.thin and facts.host.filesystem.fallocate


def refuse_unsupported(wanted: Wanted, facts: Facts) -> None:
    """Expect the filesystem to support reservations, if the options need them.

    :raises Unsupported: when it can't.
    """
    filesystem = facts.host.filesystem
    if wanted.data == "falloc" and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} can't reserve storage with fallocate; set"
            " allocpolicy:performance.data = full or sparse"
        )
        raise Unsupported(facts.host.directory, reason)
