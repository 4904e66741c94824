"""(e) Peak memory of our command and of qemu-img, making large disks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from allocpolicy import automatic_cluster_size
from benchmarks import copies, measure, whole_command
from benchmarks.measure import DISK, MIB, TIB, Comparison, Part, Record, Settings
from benchmarks.releases import Release

SIZES = {"1 TiB": TIB, "8 TiB": 8 * TIB}
KIND = "xfs"
SMALL = "--extra-spec allocpolicy:performance.cluster_size=64K"
# ru_maxrss outlives execve, so that a child inherits its parent's: start it from a
# process that is as small as Python can be.
_SMALL_PARENT = """
import os, sys
child = os.fork()
if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""

TEXT = """ru_maxrss of the process (wait4), MiB; `true` shows what is the measuring
process's own, below which nothing can be seen. Empty disks on xfs; qemu-img at our
automatic cluster size and at its own default, 64K, the latter up to 1 TiB."""


def run(settings: Settings) -> Part:
    with measure.mounted(KIND, directory=settings.directory) as mount_point:
        comparisons = tuple(
            _measure(size, mount_point, settings) for size in _sizes(settings)
        )
    return Part(
        name="memory", title="(e) Peak memory", text=TEXT, comparisons=comparisons
    )


def _sizes(settings: Settings) -> Sequence[str]:
    return ("1 TiB",) if settings.short else list(SIZES)


def _measure(size: str, directory: Path, settings: Settings) -> Comparison:
    count = SIZES[size]
    records = [
        _ours(release, count, options, directory)
        for options in ("", SMALL)
        for release in settings.releases
    ]
    create = f"{copies.CREATE} -o preallocation=metadata"
    lines = {
        "qemu-img create": f"{create},cluster_size={automatic_cluster_size(count)}"
        f" {DISK} {count}",
    }
    if count == TIB:
        lines["qemu-img create, 64K"] = f"{create} {DISK} {count}"
    lines |= {
        "allocpolicy --version": f"{Release().command} --version",
        "python -c pass": f"{sys.executable} -c pass",
        "true": "true",
    }
    records += [_record(name, line, directory) for name, line in lines.items()]
    return Comparison(filesystem=KIND, case=size, records=tuple(records))


def _ours(release: Release, count: int, options: str, directory: Path) -> Record:
    """Return the peak of a release's command, the disk prepared where it can be."""
    whole_command.prepare(
        count, None, release=release, directory=directory, options=options
    )
    line = f"{whole_command.provision(count, None, release=release)} {options}"
    name = release.named("allocpolicy provision" + (", 64K" if options else ""))
    return _record(name, line, directory, release.environment)


def _record(
    name: str,
    line: str,
    directory: Path,
    environment: Mapping[str, str] | None = None,
) -> Record:
    peak = _peak(line, directory, environment)
    return Record(name=name, values=(peak / MIB,), unit="MiB")


def _peak(line: str, directory: Path, environment: Mapping[str, str] | None) -> int:
    command = [sys.executable, "-I", "-S", "-c", _SMALL_PARENT, *line.split()]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        cwd=directory,
        env=environment,
        text=True,
    )
    (directory / DISK).unlink(missing_ok=True)
    return int(done.stdout)
