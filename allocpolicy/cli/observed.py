"""A disk as people read it: what was observed, and how it must be attached."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Attachment
from allocpolicy.wording import format_size

COLUMNS = (
    *("format", "virtual_size", "file_size", "actual_size"),
    *("mapping", "allocation", "guaranteed", "backing_file"),
)


def rows(seen: Observation) -> Mapping[str, object]:
    """Return the most important values of an observation."""
    return {
        "format": seen.format,
        "virtual_size": format_size(seen.virtual_size),
        "file_size": format_size(seen.file_size),
        "actual_size": format_size(seen.actual_size),
        "mapping": seen.mapping,
        "allocation": seen.allocation,
        "guaranteed": f"no: {seen.exception}" if seen.exception else "yes",
        "backing_file": seen.backing_file or "-",
    }


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
