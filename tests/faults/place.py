"""The place of a command: made once, and as it was before each run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.faults.scenarios import EMPTY, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What a file is: with its content, not with its times."""

    mode: int
    digest: str
    attributes: tuple[tuple[str, bytes], ...]


Picture = dict[str, File]


class Place:
    """A directory of disks, images, locks and metrics, and a copy of how it began."""

    def __init__(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "place"
        self.before = directory / "before"
        for name in ("disks", "images", "metrics"):
            (self.path / name).mkdir(parents=True)
        (self.path / EMPTY).touch()
        scenario.prepare(self.path)
        copy(self.path, self.before)
        self.picture = picture(self.path)

    def restore(self) -> None:
        """Make the place as it was, but for what is written: holes are holes again."""
        shutil.rmtree(self.path)
        copy(self.before, self.path)


def copy(source: Path, target: Path) -> None:
    options = ("-a", "--sparse=always", "--reflink=never")
    subprocess.run(["cp", *options, source, target], check=True)


def picture(directory: Path) -> Picture:
    """Return every file below a directory."""
    return {
        str(path.relative_to(directory)): look(path)
        for path in sorted(directory.rglob("*"))
        if not path.is_dir()
    }


def look(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(os.listxattr(path))
    return File(
        mode=path.stat().st_mode,
        digest=digest,
        attributes=tuple((name, os.getxattr(path, name)) for name in names),
    )
