"""The directories in which disks are made, and the base images beside them."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from allocpolicy import DiskFormat
from allocpolicy.record import dataclass
from allocpolicy.testing.base_images import BaseFile, BaseKind, make_base
from allocpolicy.testing.mounts import filesystem_of
from allocpolicy.testing.subject import Place, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A directory of the suite's own, its filesystem's type, and base images on it."""

    directory: Path
    filesystem: str
    bases: tuple[BaseFile, ...]

    def places(self, subject: Subject) -> Iterator[Place]:
        """Yield each place here: formats, with and without bases, option sets."""
        for format, base, options in itertools.product(
            DiskFormat, (None, *self.bases), subject.option_sets
        ):
            yield Place(
                subject=subject,
                directory=self.directory,
                filesystem=self.filesystem,
                format=format,
                base=base,
                options=options,
            )


@contextmanager
def grounds(directories: Sequence[Path]) -> Iterator[tuple[Ground, ...]]:
    """Make a ground in each of the directories; remove them with all in them."""
    with ExitStack() as stack:
        made = []
        for directory in map(Path.absolute, directories):  # code may change directory
            own = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="allocpolicy-check-", dir=directory)
            )
            made.append(_ground(Path(own)))
        yield tuple(made)


def _ground(directory: Path) -> Ground:
    return Ground(
        directory=directory,
        filesystem=filesystem_of(directory),
        bases=tuple(make_base(directory, kind) for kind in BaseKind),
    )
