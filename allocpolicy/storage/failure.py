"""Turning the kernel's errno into one of our errors, with the numbers behind it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import NotEnoughSpace, StorageFailed, Unsupported
from allocpolicy.storage.space import free_bytes

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# EFBIG: above the filesystem's maximum file size, or above RLIMIT_FSIZE.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EFBIG})
# The device or its filesystem is failing.
FAULTS = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO, errno.EUCLEAN})


@contextlib.contextmanager
def explained(*, fd: int, path: Path, needed: int, action: str) -> Iterator[None]:
    """Turn the body's ENOSPC, EDQUOT, "unsupported" and I/O errors into our errors.

    :param needed: bytes that the body tries to allocate.
    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    :raises Unsupported: on EOPNOTSUPP, ENOSYS, ENOTTY or EFBIG.
    :raises StorageFailed: on `FAULTS`.
    """
    try:
        yield
    except OSError as error:
        reason = f"{action}: {os.strerror(error.errno or 0)}"
        if error.errno in NO_SPACE:
            raise NotEnoughSpace(path, needed, free_bytes(fd), reason) from error
        if error.errno in UNSUPPORTED:
            raise Unsupported(path, reason) from error
        if error.errno in FAULTS:
            raise StorageFailed(path, reason) from error
        raise
