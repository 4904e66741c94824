"""An audit as metrics: text for the textfile collector of Prometheus' node_exporter.

It is valid OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/) and
also valid in the older text format, which the collector reads: all metrics are gauges.
The verdicts would be a state set, but that format doesn't know the type, and the
collector would refuse the whole file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from allocpolicy.observe.account import Account
from allocpolicy.observe.unknown import Why
from allocpolicy.report import whole_file
from allocpolicy.report.audit import FINDINGS, WORDS, Audit, Row, Storage

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
# name, unit, help, value of a disk that was observed
_SIZES: tuple[tuple[str, str, Callable[[Row], int]], ...] = (
    (
        "virtual",
        "Size that the guest sees.",
        lambda row: row.observed.virtual_size if row.observed else 0,
    ),
    (
        "actual",
        "Storage that the disk takes.",
        lambda row: row.observed.actual_size if row.observed else 0,
    ),
    (
        "reserved",
        "Storage that the disk has and that was not written yet.",
        lambda row: (
            row.observed.extents.unwritten
            if row.observed and row.observed.extents
            else 0
        ),
    ),
)
# name, help, value of a filesystem
_STORAGE: tuple[tuple[str, str, Callable[[Account], int]], ...] = (
    ("size", "Size of the filesystem.", lambda taken: taken.size),
    ("free", "What ordinary users may still allocate.", lambda taken: taken.free),
    (
        "promised",
        "What the disks on it may still allocate.",
        lambda taken: taken.promised,
    ),
    (
        "prepared",
        "What only prepared disks take, until they are pruned.",
        lambda taken: taken.prepared_bytes,
    ),
)


def text(audit: Audit) -> str:
    """Return the metrics of all disks and filesystems, in UTF-8's range."""
    parts = (_verdicts, _counts, _paths, _ended, _sizes, _filesystems, _unknown)
    return "".join([*(line for part in parts for line in part(audit)), "# EOF\n"])


def write(path: Path, audit: Audit) -> None:
    """Replace the file with the audit's metrics, whole or not at all, mode 0644.

    :raises DestinationError: when its directory is missing or not writable.
    :raises NotEnoughSpace: when there is no space for it; the old file stays.
    """
    whole_file.replace(path, text(audit), what="metrics")


def _verdicts(audit: Audit) -> Iterator[str]:
    name = "allocpolicy_disk_verdict"
    yield _head(name, "1 for the verdict on the disk, 0 for the others.")
    for row in _one_each(audit.rows):
        for word in WORDS:
            labels = {
                "disk": os.fspath(row.disk),
                "strategy": row.strategy or "",
                "verdict": word,
            }
            yield _sample(name, labels, int(row.word == word))


def _one_each(rows: Iterable[Row]) -> Iterable[Row]:
    """Return one row for each disk's label, and the finding where there are several.

    A series that appears twice would make the collector refuse the whole file. What is
    named as a disk and expected as one may have two rows, and so may two names of which
    only one is UTF-8.
    """
    found: dict[str, Row] = {}
    for row in rows:
        label = _escape(os.fspath(row.disk))
        if label not in found or row.verdict.judgement in FINDINGS:
            found[label] = row
    return found.values()


def _counts(audit: Audit) -> Iterator[str]:
    """Yield what also an audit has that finds nothing: the series must not end."""
    for name, about, value in (
        ("audited_disks", "Disks that a policy is known of.", audit.audited),
        ("unstamped_files", "Files like disks, without a policy.", audit.unstamped),
        ("base_images", "Base images, which have no policy.", audit.bases),
        ("found_disks", "Disks that are there, with a policy or without.", audit.disks),
        ("expected_disks", "Disks that must be there, at least.", audit.expected),
        ("unreadable_paths", "Files and directories not read.", audit.unreadable),
    ):
        yield _head(f"allocpolicy_{name}", about)
        yield f"allocpolicy_{name} {value}\n"


def _paths(audit: Audit) -> Iterator[str]:
    name = "allocpolicy_path_disks"
    yield _head(name, "Disks at and below a path that was looked at.")
    for path, count in audit.found.items():
        if count or path not in audit.closed:  # 0 is no guess
            yield _sample(name, {"path": os.fspath(path)}, count)


def _ended(audit: Audit) -> Iterator[str]:
    name = "allocpolicy_audit_timestamp_seconds"
    yield _head(name, "When the audit ended.", unit="seconds")
    yield f"{name} {audit.ended:.0f}\n"


def _sizes(audit: Audit) -> Iterator[str]:
    for size, about, value in _SIZES:
        name = f"allocpolicy_disk_{size}_bytes"
        yield _head(name, about, unit="bytes")
        for row in _one_each(audit.rows):
            if row.observed:
                yield _sample(name, {"disk": os.fspath(row.disk)}, value(row))


def _filesystems(audit: Audit) -> Iterator[str]:
    for size, about, value in _STORAGE:
        name = f"allocpolicy_filesystem_{size}_bytes"
        yield _head(name, about, unit="bytes")
        for one in audit.filesystems:
            yield _sample(name, _labels(one), value(one.account))


def _unknown(audit: Audit) -> Iterator[str]:
    name = "allocpolicy_filesystem_unknown_files"
    yield _head(name, "Files, or directories, that may take nobody knows how much.")
    for one in audit.filesystems:
        counts = {unknown.why: unknown.count for unknown in one.account.unknown}
        for why in Why:
            labels = {**_labels(one), "why": str(why)}
            yield _sample(name, labels, counts.get(why, 0))


def _labels(one: Storage) -> dict[str, str]:
    labels = {"filesystem": one.key, "type": one.type}
    return labels | ({"budget": one.account.budget} if one.account.budget else {})


def _head(name: str, about: str, *, unit: str | None = None) -> str:
    lines = f"# TYPE {name} gauge\n"
    if unit:
        lines += f"# UNIT {name} {unit}\n"
    return f"{lines}# HELP {name} {about}\n"


def _sample(name: str, labels: Mapping[str, str], value: int) -> str:
    said = ",".join(f'{label}="{_escape(one)}"' for label, one in labels.items())
    return f"{name}{{{said}}} {value}\n"


def _escape(value: str) -> str:
    """Return a label's value, escaped; bytes that are not UTF-8 by number."""
    utf_8 = os.fsencode(value).decode(errors="backslashreplace")
    return utf_8.translate(_ESCAPES)
