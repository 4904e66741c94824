"""Measure us and the rivals in one run: ``python -m benchmarks``, as root.

Filesystems are made on sparse files and unmounted afterwards; see
docs/explanation/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import (
    audit,
    batch,
    copies,
    hook,
    known,
    measure,
    memory,
    metadata,
    prepared,
    qemus,
    releases,
    startup,
    tables,
    touch,
    whole_command,
    writes,
)
from benchmarks.measure import Settings
from benchmarks.releases import BEFORE, Release

PARTS = {
    "metadata": metadata.run,
    "copy": copies.run,
    "command": whole_command.run,
    "writes": writes.run,
    "memory": memory.run,
    "audit": audit.run,
    "hook": hook.run,
    "prepared": prepared.run,
    "batch": batch.run,
    "startup": startup.run,
    "known": known.run,
    "touch": touch.run,
}
KINDS = ("xfs", "ext4", "btrfs")


def main() -> None:
    arguments = _arguments()
    if arguments.render:
        _render(arguments.output)
        return
    # What is mounted is unmounted, however we are told to go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        settings = Settings(
            directory=Path(directory),
            kinds=arguments.filesystems,
            releases=_releases(arguments.before, arguments.before_is),
            qemus=qemus.found(newer=not arguments.installed_qemu),
            pairs=arguments.pairs or (3 if arguments.short else 5),
            quick=arguments.quick,
            short=arguments.short,
            profile=arguments.profile,
        )
        for name in arguments.only:
            _run(name, settings, arguments.output)


def _run(name: str, settings: Settings, output: Path) -> None:
    """Measure one part; write the table and the plots as they are by now."""
    measure.say(f"{name}, {time.strftime('%H:%M:%S')}")
    part = PARTS[name](settings)
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": tables.machine(settings),
        "pairs": settings.pairs,
        "caches": "warm",
        "quick": settings.quick,
        "short": settings.short,
    }
    tables.store(output / "results.json", [part], about=about)
    _render(output)
    for target in part.targets:
        reached = "reached" if target.reached else "NOT REACHED"
        print(f"{reached}: {target.text}: {target.measured}, wanted {target.wanted}")


def _render(output: Path) -> None:
    """Write the table and the plots of all that was measured."""
    from benchmarks import plot

    found = tables.load(output / "results.json")
    (output / "results.md").write_text(tables.markdown(found))
    for part, _ in found:
        plot.draw(part, output)
    plot.draw_summary([part for part, _ in found], output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--directory", type=Path, help="for the filesystems' images, 30 GiB free"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="PYTHON",
        help="measure the earlier release, too, that this interpreter has",
    )
    parser.add_argument(
        "--before-is",
        default="an earlier release",
        metavar="TEXT",
        help="what that is, for the results",
    )
    parser.add_argument("--pairs", type=int, help="rounds (default 5, --short 3)")
    parser.add_argument(
        "--filesystems", nargs="+", choices=KINDS, default=KINDS, metavar="KIND"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small, to see that it works"
    )
    parser.add_argument(
        "--short", action="store_true", help="fewer rounds, sizes and filesystems"
    )
    parser.add_argument(
        "--installed-qemu",
        action="store_true",
        help="measure no other QEMU, which is fetched from Debian's backports",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIRECTORY",
        help="also write there where the time of ours went",
    )
    parser.add_argument(
        "--output", type=Path, help="for the results (default benchmarks/results)"
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing; tables and plots from results.json",
    )
    arguments = parser.parse_args()
    if arguments.output is None:
        if arguments.quick:
            parser.error("--quick needs --output: it is nothing to keep")
        arguments.output = Path(__file__).with_name("results")
    return arguments


def _releases(before: Path | None, what: str) -> list[Release]:
    """Return this release, and the earlier one if there is one, both at work."""
    if before is None:
        return [Release()]
    both = [Release(), Release(python=before.absolute(), label=BEFORE, what=what)]
    with releases.working(both):
        return both


if __name__ == "__main__":
    main()
