"""Keep and print what a run of the tests covers.

python tools/coverage_page.py REPORT COMMAND…   keeps the sums of coverage's JSON report

What is kept is docs/project/coverage.json: the sums of each room, when, of which commit
and by which command. docs/conf.py makes a table of it while the site is built.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs" / "project" / "coverage.json"
COUNTS = (
    "num_statements",
    "covered_lines",
    "num_branches",
    "covered_branches",
)


def room(file: str) -> str:
    """Return the room of a module, as the page on architecture names it."""
    path = re.sub(r"^.*?(?=allocpolicy(_strategies)?/)", "", file)
    first, second, *deeper = path.split("/")
    if first != "allocpolicy":
        return first
    return second if deeper else "allocpolicy"


def sums(report: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counts of each room."""
    rooms: dict[str, Counter[str]] = {}
    for file, found in report["files"].items():
        if "/pytest-" in file:  # a copy that a test made
            continue
        counted = rooms.setdefault(room(file), Counter())
        counted.update({name: found["summary"][name] for name in COUNTS})
    return {name: dict(rooms[name]) for name in sorted(rooms)}


def kept(report: Mapping[str, Any], *, command: str) -> dict[str, Any]:
    """Return what is kept of a report."""
    return {
        "command": command,
        "commit": git("rev-parse", "--short", "HEAD"),
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "python": platform.python_version(),
        "rooms": sums(report),
    }


def git(*arguments: str) -> str:
    """Return what git says."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def share(counted: Mapping[str, int]) -> str:
    """Return the share of lines and branches together, as coverage itself counts it."""
    covered = counted["covered_lines"] + counted["covered_branches"]
    return (
        f"{100 * covered / (counted['num_statements'] + counted['num_branches']):.1f} %"
    )


def rows(rooms: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield a table of the rooms, and of all of them."""
    yield "| room | lines | of them run | branches | of them taken | covered |"
    yield "|---|---|---|---|---|---|"
    total: Counter[str] = Counter()
    for counted in rooms.values():
        total.update(counted)
    for name, counted in {**rooms, "**all**": total}.items():
        counts = " | ".join(f"{counted[count]:,}" for count in COUNTS)
        yield f"| {name} | {counts} | {share(counted)} |"


def write() -> str:
    """Return the page's part that tells the figures, and where they are from."""
    if not KEPT.exists():
        return "No run has been kept yet.\n"
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    source = (
        f"`{found['command']}`, on {found['date']}, of commit {found['commit']}, by"
        f" Python {found['python']}:"
    )
    return "\n".join([source, "", *rows(found["rooms"]), ""])


def main(arguments: Sequence[str]) -> None:
    """Keep the sums of a report."""
    report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    found = kept(report, command=" ".join(arguments[1:]).removesuffix(" --"))
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
