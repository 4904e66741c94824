"""What may be opened because an image names it: what the disk's writers may read.

Who may write to a disk may have written its header and its stamp. A backing file that
is opened with our rights, and copied into the disk, would be his to read: root would
hand him any file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, OutOfReach
from allocpolicy.images import image_file
from allocpolicy.images.image_file import ImageFile
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import credentials, writers
from allocpolicy.storage.credentials import User
from allocpolicy.storage.inode import inode

NOT_FOLLOWED = (
    "it is not opened: the disk has no stamp, and its guest may have written the"
    " header; allocpolicy inspect --disk-format looks at one such disk"
)
_REMEDY = "if the disk may contain it, add its directory to trusted_base_directories"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which files a disk's header may lead to.

    All of the ``writers`` must have the right to read them; without any, our rights
    decide. Files in directories that are ``trusted`` may be anybody's backing files. If
    they are not to be ``followed``, nothing is opened.
    """

    writers: tuple[User, ...] = ()
    trusted: tuple[Path, ...] = ()
    followed: bool = True

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[ImageFile]:
        """Open a file that an image names.

        :raises OutOfReach: when one of the disk's writers may not read it.
        :raises ImageError: as `image_file.opened`.
        """
        if not self.writers:
            with image_file.opened(path) as image:
                yield image
            return
        with contextlib.ExitStack() as stack:
            images = [self._opened(path, one, stack) for one in self.writers]
            if len({inode(os.fstat(image.fd)) for image in images}) > 1:
                raise ImageError(path, "it was replaced while it was opened; try again")
            yield images[0]

    def includes(self, path: Path) -> bool:
        """Return whether all of the writers may read the file, which is not opened.

        Who may not find that out has no other rights than his own.
        """
        resolved = os.path.realpath(path)
        if any(Path(resolved).is_relative_to(one) for one in self.trusted):
            return True
        for one in self.writers:
            with contextlib.suppress(PermissionError), credentials.acting_as(one):
                if not os.access(resolved, os.R_OK, effective_ids=True):
                    return False
        return True

    def below(self, writers: Iterable[User]) -> Reach:
        """Return the reach of a backing file, which its own writers limit further."""
        if not self.writers:
            return self
        both = tuple(dict.fromkeys((*self.writers, *writers)))
        return replace(self, writers=both)

    def check_exists(self, path: Path) -> None:
        """Check that there is such a file, as far as the disk's writers may know.

        :raises ImageError: when there is none.
        """
        for one in self.writers:
            with contextlib.suppress(PermissionError), credentials.acting_as(one):
                image_file.resolve(path)
        if not self.writers:
            image_file.resolve(path)

    def _opened(
        self, path: Path, writer: User, stack: contextlib.ExitStack
    ) -> ImageFile:
        """Open a file with a writer's rights, or with ours if its place is trusted."""
        try:
            with credentials.acting_as(writer):
                return stack.enter_context(image_file.opened(path))
        except PermissionError as error:
            denial: Exception = error
            reason = f"it takes CAP_SETUID and CAP_SETGID to find out if {writer.name}"
            reason = f"{reason}, who may write to the disk, may read this file"
        except ImageError as error:
            denied = isinstance(error.__cause__, PermissionError)
            if not denied or not credentials.exceed(writer):
                raise
            denial = error
            reason = f"{writer.name} may write to the disk, and may not read this file"
        if (image := self._trusted(path, stack)) is not None:
            return image
        raise OutOfReach(path, f"{reason}; {_REMEDY}") from denial

    def _trusted(self, path: Path, stack: contextlib.ExitStack) -> ImageFile | None:
        with contextlib.suppress(ImageError):  # nobody learns what isn't there
            resolved = image_file.resolve(path)
            if any(resolved.is_relative_to(one) for one in self.trusted):
                file = stack.enter_context(
                    image_file.found_resolved(resolved, named=path)
                )
                return stack.enter_context(image_file.reopened(file))
        return None


OURS = Reach()


def of(fd: int, *, trusted: Iterable[Path], followed: bool = True) -> Reach:
    """Return what the header of an open disk may lead to.

    A disk that root alone may write to may lead to anything.

    :param trusted: the operator's trusted_base_directories.
    """
    return Reach(
        writers=writers.of(fd),
        trusted=tuple(Path(os.path.realpath(one)) for one in trusted),
        followed=followed,
    )
