"""A disk as people read it: what was observed, and how it must be attached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allocpolicy.contract.facts import DataFile, Observation
from allocpolicy.contract.strategy import Attachment
from allocpolicy.wording import amount, format_size

COLUMNS = (
    *("format", "virtual_size", "file_size", "actual_size"),
    *("mapping", "allocation", "guaranteed", "backing_file"),
    *("shared", "chain_length", "data_file", "snapshots", "dirty", "leaked"),
)


def rows(seen: Observation) -> Mapping[str, object]:
    """Return the most important values of an observation."""
    return {
        "format": seen.format,
        "virtual_size": format_size(seen.virtual_size),
        "file_size": format_size(seen.file_size),
        "actual_size": format_size(seen.actual_size),
        "mapping": ": ".join(filter(None, (seen.mapping, seen.mapping_gaps))),
        "allocation": seen.allocation,
        "guaranteed": f"no: {seen.exception}" if seen.exception else "yes",
        "backing_file": seen.backing_file or "-",
        **{name: value for name, value in _remarks(seen) if value},
    }


def _remarks(seen: Observation) -> Iterator[tuple[str, object]]:
    """Yield what few disks have."""
    yield "shared", _shared(seen)
    yield "chain_length", seen.chain_length
    yield "data_file", seen.data_file and _data_file(seen.data_file)
    yield "snapshots", seen.named_snapshots
    yield "dirty", "yes: it was not closed" if seen.dirty else None
    if seen.leaked_clusters:
        size = format_size(seen.leaked_bytes or 0)
        yield "leaked", f"{seen.leaked_clusters} clusters, {size}"


def _shared(seen: Observation) -> str | None:
    if seen.shared_bytes is None:
        return f"unknown: {seen.filesystem} does not tell"
    if not seen.shared_bytes:
        return None
    return f"{amount(seen.shared_bytes)} with other files"


def _data_file(data: DataFile) -> str:
    named = data.path or "not named"
    if data.file_size is None or data.actual_size is None:
        return f"{named} ({data.problem})"
    sizes = f"{amount(data.file_size)}, {amount(data.actual_size)} allocated"
    return f"{named} ({sizes}, {data.allocation})"


def options(hints: Attachment) -> str:
    """Return the QEMU options that keep the promise."""
    text = (
        f"discard={hints.discard} detect_zeroes={hints.detect_zeroes}"
        f" cache={hints.cache} io={hints.io}"
    )
    if hints.l2_cache_size:
        text += f" l2-cache-size={hints.l2_cache_size}"
    if hints.discard_no_unref:
        text += " discard-no-unref=on"
    if hints.discard_granularity:
        text += f" discard_granularity={hints.discard_granularity}"
    return text
