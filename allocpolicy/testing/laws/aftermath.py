"""Laws about what steps leave behind: in the process, and in directories."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from allocpolicy import Policy
from allocpolicy.testing import process
from allocpolicy.testing.law import executed, plainly, require
from allocpolicy.testing.making import new_disk
from allocpolicy.testing.subject import Place


@executed(
    "steps-leave-the-process-alone",
    "No step prints, or changes umask, directory, signals; no thread, child or"
    " descriptor is left.",
    where=plainly,
)
def steps_leave_the_process_alone(place: Place) -> None:
    with process.watched() as changed:
        new_disk(place)
    require(not changed, f"making a disk changes {', '.join(changed)}")


@executed(
    "the-disk-is-all-that-is-made",
    "Beside a new disk no file is left, nor in /tmp or the current directory.",
    where=plainly,
)
def the_disk_is_all_that_is_made(place: Place) -> None:
    before = set(place.directory.iterdir())
    with (
        tempfile.TemporaryDirectory() as current,
        _temporary_directory() as temporary,
        chdir(current),
    ):
        new_disk(place)
        left = sorted(set(place.directory.iterdir()) - before - {place.disk})
        ours = Policy().lock_path  # without root it is there
        left += sorted({*temporary.iterdir(), *Path(current).iterdir()} - {ours})
    require(not left, f"it leaves {', '.join(one.name for one in left)}")


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """Have a directory of its own for temporary files, as this process makes them."""
    kept, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as name:
        tempfile.tempdir, os.environ["TMPDIR"] = name, name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = kept
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable
