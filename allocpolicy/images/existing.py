"""An existing disk, opened once; its policy is in its stamp, its format never probed.

The guest can write anything into a raw disk, even a qcow2 header. The format comes from
the stamp or from the caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import FormatUnknown, ImageError, Unsupported
from allocpolicy.images import heritage, image_file
from allocpolicy.images import reach as reaches
from allocpolicy.images import stamp as stamps
from allocpolicy.images.heritage import Inherited
from allocpolicy.images.image_file import ImageFile
from allocpolicy.images.stamp import Stamp
from allocpolicy.record import dataclass
from allocpolicy.storage import lease, mount
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import named, refuse_failure
from allocpolicy.storage.found import reopen

_OVERLAY = (
    "overlayfs may copy it when it is changed, and whoever has it open keeps the old"
    " one; change the disk on the filesystem that has it"
)
BEING_REWRITTEN = "it is being rewritten; try again when that is done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """An open disk and its open directory; ``path`` has no symbolic links."""

    path: Path
    fd: int
    directory: Directory
    format: DiskFormat
    stamp: Stamp | None
    inherited: Inherited | None = None

    @property
    def policy(self) -> Stamp | None:
        """Return its stamp, or what it inherits instead."""
        return self.stamp or (self.inherited.stamp if self.inherited else None)


@contextlib.contextmanager
def opened(
    path: Path,
    *,
    declared: DiskFormat | None = None,
    changing: bool = False,
    trusted: tuple[Path, ...] | None = None,
    force: bool = False,
    attached: bool = False,
) -> Iterator[Disk]:
    """Open a disk without a lock; a running QEMU doesn't notice.

    :param declared: its format, if it has no stamp.
    :param changing: for writing, too, if that is allowed, and a lease can tell whether
        it is in use. It need not be where nothing is to be done.
    :param trusted: the operator's trusted_base_directories, if a disk without a stamp
        has the policy of the disks below it; an overlay that has one is a qcow2.
    :param force: believe the declared format, whatever the content looks like.
    :param attached: a VM is attached to just this path in the declared format: it is
        not behind a link that others made, and a stamp that says otherwise is none.
    :raises ImageError: when it can't be opened or isn't a regular file, or its format
        is unknown or contradicts its stamp, or its content; also while it is being
        rewritten, because opening it would stop that.
    """
    with at_rest(path, attached=attached) as found:
        # Elsewhere, opening it for writing may copy it (from overlayfs's lower layer).
        writing = changing and lease.are_whole(found.fd) and _may_write(found.fd)
        flags = os.O_RDWR if writing else os.O_RDONLY
        with image_file.reopened(found, flags=flags) as image:
            stamp = _stamp(image, attached_as=declared if attached else None)
            inherited = None
            if stamp is None and declared is not DiskFormat.RAW and trusted is not None:
                inherited = _inherited(image, trusted=trusted, declared=declared)
                declared = inherited.stamp.format if inherited else declared
            format = _format(stamp, declared=declared, path=image.path)
            if stamp is None and inherited is None and not force:
                _refuse_contradiction(image.fd, format, path=image.path)
            yield Disk(
                path=image.path,
                fd=image.fd,
                directory=image.directory,
                format=format,
                stamp=stamp,
                inherited=inherited,
            )


def _stamp(image: ImageFile, *, attached_as: DiskFormat | None) -> Stamp | None:
    """Return the disk's stamp.

    :raises ImageError: when it isn't a valid one, unless the VM's definition counts.
    """
    if attached_as is None:
        return stamps.read(image.fd, path=image.path)
    with contextlib.suppress(ImageError):
        stamp = stamps.read(image.fd, path=image.path)
        return stamp if stamp and stamp.format is attached_as else None
    return None


@contextlib.contextmanager
def at_rest(path: Path, *, attached: bool = False) -> Iterator[ImageFile]:
    """Find a disk that nobody is rewriting: opening it would stop that.

    :param attached: as for `opened`.
    :raises ImageError: when it is missing, no regular file, or being rewritten.
    """
    find = image_file.found_attached if attached else image_file.found
    with find(path) as found:
        if lease.is_leased(found.fd):
            raise ImageError(path, BEING_REWRITTEN)
        yield found


@contextlib.contextmanager
def writable(disk: Disk) -> Iterator[int]:
    """Yield a descriptor with which the disk can be changed in place.

    :raises ImageError: when there is no permission to write.
    :raises Unsupported: on overlayfs, which copies a disk of a lower layer when it is
        opened for writing: a VM that has it open would go on with the other one.
    """
    if fcntl.fcntl(disk.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        yield disk.fd
        return
    _refuse_overlayfs(disk)
    with _opened_for_writing(disk) as fd:
        yield fd


def check_writable(disk: Disk) -> None:
    """Check that `writable` would succeed; where it would, nothing is opened.

    :raises ImageError: when there is no permission to write.
    :raises Unsupported: as `writable` does.
    """
    _refuse_overlayfs(disk)
    if not _may_write(disk.fd):
        with _opened_for_writing(disk):  # access(2) doesn't say why not
            pass


def _refuse_overlayfs(disk: Disk) -> None:
    if mount.type_by_magic(disk.fd) == "overlay":
        raise Unsupported(disk.path, _OVERLAY)


@contextlib.contextmanager
def _opened_for_writing(disk: Disk) -> Iterator[int]:
    """Open the disk's file once more.

    :raises ImageError: when there is no permission to write.
    """
    try:
        fd = reopen(disk.fd, flags=os.O_RDWR)
    except OSError as error:
        refuse_failure(error, path=disk.path, action="open it for writing")
        reason = f"cannot write to it: {image_file.why(error)}"
        raise ImageError(disk.path, reason) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _may_write(fd: int) -> bool:
    return os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)


def _inherited(
    image: ImageFile, *, trusted: tuple[Path, ...], declared: DiskFormat | None
) -> Inherited | None:
    """Return the policy that a disk without a stamp has from those below it, if any.

    :raises FormatUnknown: when it has none, and its format isn't declared either.
    """
    reach = reaches.of(image.fd, trusted=trusted)
    try:
        return heritage.of(image.fd, path=image.path, reach=reach)
    except ImageError as error:
        if declared is not None:
            return None
        cause = error.reason if error.path == image.path else str(error)
        reason = f"it has no stamp, and inherits no policy ({cause}); state its format"
        raise FormatUnknown(image.path, f"{reason} with --disk-format") from error


def contradiction(fd: int, format: DiskFormat) -> str | None:
    """Return why an open file is hardly a disk of a format that is declared, or None.

    Only for a disk without a stamp: the guest of a raw disk may write anything into it.

    :raises OSError: when it cannot be read.
    """
    if format is not DiskFormat.RAW:
        return None  # reading its header tells
    from allocpolicy.images import appearance

    seen = appearance.of(fd, file_size=os.fstat(fd).st_size)
    if seen is None:
        return None
    return f"its content is {seen.name}, and would be taken for a raw disk"


def _refuse_contradiction(fd: int, format: DiskFormat, *, path: Path) -> None:
    with named(path, action="read it"):
        said = contradiction(fd, format)
    if said is not None:
        remedy = "state its true --disk-format, or, if a guest wrote that, add --force"
        raise ImageError(path, f"{said}; {remedy}")


def _format(
    stamp: Stamp | None, *, declared: DiskFormat | None, path: Path
) -> DiskFormat:
    if stamp is None:
        if declared is None:
            unknown = "its format is unknown, as it has no stamp"
            raise FormatUnknown(path, f"{unknown}; state it with --disk-format")
        return declared
    if declared not in (None, stamp.format):
        reason = f"its stamp says {stamp.format}, not {declared}"
        reason += f"; if the stamp is wrong, {stamps.REMOVE}"
        raise ImageError(path, reason)
    return stamp.format
