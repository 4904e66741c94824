"""Results as JSON (all that was measured) and as Markdown (medians and ratios)."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import writes
from benchmarks.measure import Comparison, Part, Record, Settings, Target, output, ratio

_VERSIONS = {
    "xfsprogs": "mkfs.xfs -V",
    "btrfs-progs": "mkfs.btrfs --version",
}
_TARGETS = ("goal", "wanted", "before", "measured", "times", "CPU, ms", "")


def machine(settings: Settings) -> str:
    """Return a line about the machine and what is measured, without names and paths."""
    versions = [
        f"{name} {found.group()}"
        for name, line in _VERSIONS.items()
        if (found := re.search(r"\d[\w.]*", output(line, directory=Path("/"))))
    ]
    return ", ".join(
        (
            f"Linux {platform.release().split('-')[0]}",
            " and ".join(f"QEMU {qemu.version}" for qemu in settings.qemus),
            *versions,
            f"Python {platform.python_version()}",
            f"{os.cpu_count()} cores",
            *(
                f"{release.label}: {release.what}"
                for release in settings.releases
                if release.label
            ),
        )
    )


def store(path: Path, parts: Sequence[Part], *, about: Mapping[str, object]) -> None:
    """Put measured parts into the file, in place of what it had of them."""
    content: dict[str, Any] = {"parts": {}}
    if path.exists():
        content = json.loads(path.read_text())
    for part in parts:
        content["parts"][part.name] = dataclasses.asdict(part) | {"about": dict(about)}
    content["parts"] = dict(
        sorted(content["parts"].items(), key=lambda one: str(one[1]["title"]))
    )
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> list[tuple[Part, str]]:
    """Return the parts of the file, each with how and on what it was measured."""
    found = []
    for document in json.loads(path.read_text())["parts"].values():
        about = document.pop("about")
        form = "; the short form" if about.get("short") else ""
        rounds = f"{about['pairs']} rounds{form}"
        text = f"{about['machine']}; {rounds}; caches {about['caches']}."
        found.append((_part(document), text))
    return found


def _part(document: dict[str, Any]) -> Part:
    comparisons = tuple(
        Comparison(
            filesystem=one["filesystem"],
            case=one["case"],
            records=tuple(_record(record) for record in one["records"]),
        )
        for one in document["comparisons"]
    )
    targets = tuple(Target(**target) for target in document["targets"])
    return Part(**{**document, "comparisons": comparisons, "targets": targets})


def _record(document: dict[str, Any]) -> Record:
    values, cpu = tuple(document["values"]), tuple(document.get("cpu", ()))
    return Record(**{**document, "values": values, "cpu": cpu})


def markdown(found: Sequence[tuple[Part, str]]) -> str:
    """Return all of it as a page."""
    lines = [
        "# Benchmark results",
        "",
        "Made by `tox -e bench`; see docs/explanation/benchmarks.md.",
    ]
    lines += ["", *_targets(part for part, _ in found)]
    for part, about in found:
        lines += ["", f"## {part.title}", "", part.text, "", about]
        lines += _writes(part) if part.name == "writes" else _comparisons(part)
    return "\n".join(lines) + "\n"


def _targets(parts: Iterable[Part]) -> list[str]:
    rows = [
        (
            target.text,
            target.wanted,
            target.before,
            target.measured,
            target.times,
            target.cpu,
            "reached" if target.reached else "**not reached**",
        )
        for part in parts
        for target in part.targets
    ]
    return _table(_TARGETS, rows)


def _comparisons(part: Part) -> list[str]:
    """Return a table a filesystem: case, contender, median, spread, ratio, note."""
    lines: list[str] = []
    for kind in dict.fromkeys(one.filesystem for one in part.comparisons):
        rows = [
            (one.case if number == 0 else "", record.name, *_cells(one, record))
            for one in part.comparisons
            if one.filesystem == kind
            for number, record in enumerate(one.records)
        ]
        unit = part.comparisons[0].records[0].unit
        shown = "ms" if unit == "s" else unit
        head = (
            "case",
            "contender",
            f"median, {shown}",
            "least to most",
            "CPU, ms",
            "ratio",
            "disk",
        )
        lines += ["", f"### {kind}", "", *_table(head, rows)]
    return lines


def _cells(comparison: Comparison, record: Record) -> tuple[str, ...]:
    first = comparison.records[0]
    factor = 1000 if record.unit == "s" else 1
    above = "> " if record.at_least else ""
    least, most = min(record.values), max(record.values)
    runs = " (1 run)" if len(record.values) == 1 < len(first.values) else ""
    return (
        f"{above}{_number(record.median * factor)}{runs}",
        f"{_number(least * factor)} to {_number(most * factor)}",
        record.cpu_text,
        "" if record is first else f"{above}{ratio(record, first):.2f}",
        record.note,
    )


def _writes(part: Part) -> list[str]:
    """Return a table a filesystem: a layout a row, a kind of writes a column."""
    lines: list[str] = []
    for kind in dict.fromkeys(one.filesystem for one in part.comparisons):
        cases = {one.case: one for one in part.comparisons if one.filesystem == kind}
        notes = {
            record.name: record.note for one in cases.values() for record in one.records
        }
        rows = [
            (name, *(_write_cell(one, name) for one in cases.values()), note)
            for name, note in notes.items()
        ]
        units = [f"{case}, {one.records[0].unit}" for case, one in cases.items()]
        head = ("layout", *units, "original")
        lines += ["", f"### {kind}", "", *_table(head, rows)]
    return lines


def _write_cell(comparison: Comparison, name: str) -> str:
    """Return the median, and in brackets how many times CoW's speed it is."""
    if all(record.name != name for record in comparison.records):
        return ""
    record, cow = comparison[name], comparison[writes.COW]
    if record.unit == "s":
        return f"{record.median:.2f} ({ratio(cow, record):.1f}x)"
    return f"{record.median:.0f} ({ratio(record, cow):.1f}x)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
