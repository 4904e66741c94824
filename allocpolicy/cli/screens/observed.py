"""A disk as people read it: whether it keeps its promise, its storage, its VM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from allocpolicy import record_class
from allocpolicy.cli.screens import columns, screen
from allocpolicy.contract.facts import Allocation, DataFile, DiskFormat, Observation
from allocpolicy.contract.strategy import Attachment, Choice, Judgement, Verdict
from allocpolicy.images.stamp import Asked
from allocpolicy.registry.installed import Loaded
from allocpolicy.wording import amount

#: -c takes what is in these records by its own name
COLUMNS = tuple(
    itertools.chain.from_iterable(
        columns.of_record(name, record_class.names(record))
        for name, record in (
            ("observed", Observation),
            ("verdict", Verdict),
            ("attachment", Attachment),
        )
    )
)
_STORED = {
    Allocation.RESERVED: "all storage reserved",
    Allocation.WRITTEN: "all storage written",
}
# A strategy's reason that says no more than the disk itself.
_PLAIN = ("mapping is full, allocation is ", "allocation is ")


def policy(choice: Choice, *, loaded: Loaded | None = None, between: str = ", ") -> str:
    """Return a strategy with its options; with ``loaded`` without its defaults.

    :param between: what stands between them.
    """
    known = loaded.options_schema.get("properties", {}) if loaded else {}
    defaults = {
        name: one.get("default")
        for name, one in (known.items() if isinstance(known, Mapping) else ())
        if isinstance(one, Mapping)
    }
    chosen = (
        f"{name}={columns.said(value)}"
        for name, value in choice.options.items()
        if name not in defaults or defaults[name] != value
    )
    return between.join((choice.strategy, *chosen))


def what(seen: Observation) -> str:
    """Return ``40 GiB qcow2``."""
    return f"{amount(seen.virtual_size)} {seen.format}"


def promise(verdict: Verdict, seen: Observation) -> str:
    """Return why a disk keeps its promise or doesn't, and what its guest may meet."""
    reason = verdict.reason
    if verdict.judgement is Judgement.MEETS and reason.startswith(_PLAIN):
        by_tables = seen.format is DiskFormat.QCOW2 and reason.startswith("mapping")
        mapped = _mapped(seen) if by_tables else ""
        stored = _STORED.get(seen.allocation)
        reason = ", ".join(filter(None, (mapped, stored)))
    if seen.guaranteed:
        return f"{reason}: {enospc(seen)}"
    if seen.exception is None or seen.exception in reason:
        return reason
    return "; ".join(filter(None, (reason, enospc(seen))))


def enospc(seen: Observation) -> str:
    """Return whether the guest may meet ENOSPC, and why."""
    if seen.exception is None:
        return "the guest cannot meet ENOSPC"
    return f"the guest may meet ENOSPC: {seen.exception.removeprefix('thin: ')}"


def _mapped(seen: Observation) -> str:
    if seen.mapping_gaps:
        return seen.mapping_gaps
    return {"full": "every cluster mapped", "none": "no cluster mapped"}.get(
        seen.mapping, f"mapping is {seen.mapping}"
    )


def storage(seen: Observation) -> list[str]:
    """Return what the disk takes, what it is on, and what few disks have."""
    taken = [amount(seen.actual_size), *_states(seen)]
    first = f"{taken[0]}: {', '.join(taken[1:])}" if taken[1:] else taken[0]
    backing = f"on {seen.backing_file}" if seen.backing_file else "no backing file"
    return [f"{first}; {backing}", *_remarks(seen)]


def _states(seen: Observation) -> Iterator[str]:
    extents = seen.extents
    if extents is None:
        return
    states = {
        "written": extents.written,
        "reserved": extents.unwritten,
        "shared with other files": extents.shared,
        "compressed": extents.encoded,
        "of holes": extents.hole,
    }
    yield from (f"{amount(size)} {name}" for name, size in states.items() if size)


def _remarks(seen: Observation) -> Iterator[str]:
    """Yield what few disks have."""
    if seen.shared_bytes is None:
        why = f"{seen.filesystem} does not tell"
        if seen.extents is not None:  # that of the file itself is known
            why = "as its data file was not looked at"
        yield f"shared with other files: unknown, {why}"
    if seen.chain_length > 1:
        yield f"{seen.chain_length} files are below it"
    if seen.data_file:
        yield f"data file {_data_file(seen.data_file)}"
    if seen.snapshots:
        yield seen.named_snapshots
    if seen.dirty:
        yield "dirty: it was not closed"
    if seen.leaked_clusters:
        size = amount(seen.leaked_bytes or 0)
        yield f"leaked: {seen.leaked_clusters} clusters, {size}"


def _data_file(data: DataFile) -> str:
    named = data.path or "not named"
    if data.file_size is None or data.actual_size is None:
        return f"{named} ({data.problem})"
    sizes = f"{amount(data.file_size)}, {amount(data.actual_size)} allocated"
    return f"{named} ({sizes}, {data.allocation})"


def options(hints: Attachment) -> str:
    """Return the QEMU options that keep the promise; those that matter most first."""
    words = [f"cache={hints.cache}", f"io={hints.io}", f"discard={hints.discard}"]
    if hints.detect_zeroes != "off":
        words.append(f"detect_zeroes={hints.detect_zeroes}")
    if hints.l2_cache_size:
        words.append(f"l2-cache-size={hints.l2_cache_size}")
    if hints.discard_no_unref:
        words.append("discard-no-unref=on")
    if hints.discard_granularity:
        words.append(f"discard_granularity={hints.discard_granularity}")
    return " ".join(words)


def labels(given: Mapping[str, str], *, asked: Asked | None) -> str:
    """Return the labels, without the flavor's name, which stands beside the policy."""
    flavor = {"flavor": asked.flavor} if asked else {}
    others = {key: value for key, value in given.items() if flavor.get(key) != value}
    return columns.said(others) if others else ""


def attached(hints: Attachment | None) -> str:
    """Return how a VM must attach the disk, and where its XML is had; or nothing."""
    return f"{options(hints)}   (inspect --libvirt-xml)" if hints else ""


def head(disk: object, *, what: str, policy: str = "", width: int) -> Sequence[str]:
    """Return the first lines: the disk, what it is, and the policy that it has."""
    line = "   ".join(filter(None, (f"{disk}", what, policy)))
    if len(line) <= width:
        return [line]
    start = f"  {what}   "
    return [
        f"{disk}",
        *screen.sentence(policy, width=width, start=start, indent=len(start)),
    ]
