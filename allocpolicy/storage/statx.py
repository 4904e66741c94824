"""The alignment that direct I/O needs: STATX_DIOALIGN of statx(2) (Linux 6.1).

Offsets into struct statx are those of include/uapi/linux/stat.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from allocpolicy.storage import libc

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_SIZE = 256
_DIO_ALIGN = struct.Struct("=LL")  # stx_dio_mem_align, stx_dio_offset_align
_DIO_ALIGN_OFFSET = 0x98
# Before Linux 4.11, and EPERM of a container's seccomp filter that doesn't know it.
_NOT_THERE = frozenset({errno.ENOSYS, errno.EPERM})


def dio_align(fd: int) -> tuple[int, int] | None:
    """Return the alignment of (memory, offset) in bytes; None if it isn't reported.

    Both are 0 where the file has no direct I/O.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    try:
        libc.call("statx", fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, buffer)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
    (mask,) = struct.unpack_from("=L", buffer.raw)
    if not mask & _STATX_DIOALIGN:
        return None
    memory, offset = _DIO_ALIGN.unpack_from(buffer.raw, _DIO_ALIGN_OFFSET)
    return memory, offset
