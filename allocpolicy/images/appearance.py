"""What a file's content looks like, where that is clearly no raw disk's.

That tells what a file is not: a file that begins as text is hardly a raw disk. It never
tells what a disk's format is, because the guest of a raw disk writes its content.
"""

from __future__ import annotations

import enum
import os
import struct

from allocpolicy.foreign import recognition
from allocpolicy.foreign.recognition import Content
from allocpolicy.foreign.signatures import Kind
from allocpolicy.record import dataclass

# A fixed VHD is raw with a footer, of 511 bytes in old ones ("VHD Specification" 1.0).
_VHD_FOOTER = b"conectix"
_VHD_FOOTERS = (512, 511)
# ISO 9660 (ECMA-119, 8.4): the volume's size in blocks, in the primary descriptor.
_ISO_SIZE, _ISO_SIZE_OFFSET = struct.Struct("<I"), 16 * 2048 + 80
_ISO_BLOCK = 2048
_MADE = "make one of it with provision --base"
_LUKS = "luks"  # a guest may encrypt the whole of a raw disk


class Family(enum.Enum):
    """What kind of thing it looks like."""

    IMAGE = enum.auto()
    ISO = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """What it looks like; ``length`` is what an ISO image says of itself, in bytes.

    ``remedy``: how a disk is made of an image.
    """

    family: Family
    name: str
    length: int = 0
    remedy: str = ""


def of(fd: int, *, file_size: int) -> Appearance | None:
    """Return what an open file looks like; None for what may be a raw disk.

    :raises OSError: when it cannot be read.
    """
    seen = recognition.recognized(fd)
    if seen is None or seen.format == _LUKS:
        if _is_fixed_vhd(fd, file_size=file_size):
            name = "a vpc (VHD) image"
            return Appearance(family=Family.IMAGE, name=name, remedy=_MADE)
        return None
    match seen.kind:
        case Kind.IMAGE:
            return _image(fd, seen)
        case Kind.OPTICAL:
            length = _iso_length(fd)
            return Appearance(family=Family.ISO, name=seen.name, length=length)
        case _:
            return Appearance(family=Family.OTHER, name=seen.name)


def _image(fd: int, seen: Content) -> Appearance:
    from allocpolicy.foreign import alone, vmdk  # for few files

    name, remedy = seen.name, seen.remedy
    if vmdk.is_part(fd):
        name = "one of several files of a vmdk"
        remedy = "make one of them all with provision --base and their descriptor"
    elif alone.is_read(fd, format=seen.format):
        remedy = _MADE
    return Appearance(family=Family.IMAGE, name=name, remedy=remedy)


def _is_fixed_vhd(fd: int, *, file_size: int) -> bool:
    return any(
        os.pread(fd, len(_VHD_FOOTER), file_size - length) == _VHD_FOOTER
        for length in _VHD_FOOTERS
        if file_size > length
    )


def _iso_length(fd: int) -> int:
    data = os.pread(fd, _ISO_SIZE.size, _ISO_SIZE_OFFSET)
    whole = len(data) == _ISO_SIZE.size
    return int(_ISO_SIZE.unpack(data)[0]) * _ISO_BLOCK if whole else 0
