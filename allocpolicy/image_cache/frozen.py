"""The bytes of a foreign image that are hashed and converted: they stay the same.

A read lease shows that. Where there is none, the image's owner could change bytes for
the conversion and back again, and its dates would not tell (`images.identity`): such an
image is copied first, to an unnamed file that only we and root can open.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from allocpolicy.errors import ImageError, NotEnoughSpace
from allocpolicy.images import base_image, identity
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress, Watcher, counted
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import copy, read_lease, staging
from allocpolicy.storage.copy import Run
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes

_SHORTER = "it became shorter while it was copied; try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """The source, or a private copy of it with the source's path."""

    source: SourceImage
    copied: bool

    def refuse_if_changed(self) -> None:
        """Check that the bytes are those that were checked and hashed.

        :raises ImageError: when somebody opened the image for writing.
        """
        if self.source.files is not None:
            self.source.files.refuse_if_written()
        if not self.copied:
            identity.refuse_if_written(self.source)


@contextlib.contextmanager
def frozen(
    source: SourceImage, *, directory: Directory, watch: Watcher
) -> Iterator[Frozen]:
    """Yield the source under a lease, or a copy of it, checked again.

    :param directory: where an unnamed copy is made.
    :raises ImageError: when it became unsafe meanwhile.
    :raises NotEnoughSpace: when the copy does not fit.
    """
    if read_lease.is_held(source.fd):
        yield Frozen(source=source, copied=False)
        return
    with staging.create(directory) as staged:
        progress = watch(f"copy {source.path}, which its owner may change")
        _copy(source, staged.fd, directory=directory, progress=progress)
        declared = source.declared if source.is_packed else source.format
        again = base_image.checked(
            replace(source.file, fd=staged.fd), declared=declared
        )
        yield Frozen(source=again, copied=True)


def _copy(
    source: SourceImage, target: int, *, directory: Directory, progress: Progress
) -> None:
    size = os.fstat(source.fd).st_size
    what = f"a private copy of {source.path}, which its owner may change"
    needed = os.fstat(source.fd).st_blocks * 512
    with explained(fd=target, path=directory.path, needed=needed, action=what):
        if (free := free_bytes(target)) < needed:
            raise NotEnoughSpace(directory.path, needed, free, what)
        os.ftruncate(target, size)
        try:
            copy.copy_runs(
                source.fd,
                target,
                runs=[Run(source=0, target=0, length=size)],
                may_share=True,
                advance=counted(progress, total=size),
            )
        except OSError as error:
            if os.fstat(source.fd).st_size < size:
                raise ImageError(source.path, _SHORTER) from error
            raise
