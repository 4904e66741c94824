"""VHDs as other programs than QEMU make them: their creator, geometry and sizes.

Specification: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0. Nothing of
`allocpolicy.foreign` is used: these are what it is measured with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from tests.harness.images import qemu_img

SECTOR = 512
CREATOR, ORIGINAL_SIZE, CURRENT_SIZE = 28, 40, 48
GEOMETRY, CHECKSUM = 56, 64
# Azure, VirtualBox, libvhdi, Virtual PC, QEMU before 2.4, Virtual Server, none
CHS_CREATORS = (b"wa\0\0", b"vbox", b"vs  ", b"vpc ", b"qemu", b"\0\0\0\0")
SIZE_CREATORS = (b"win ", b"tap\0", b"d2v ", b"qem2", b"CTXS")


def make(raw: Path, image: Path, *, subformat: str, creator: bytes) -> Path:
    """Convert a raw image as this program would, with the geometry that it computes."""
    options = f"subformat={subformat},force_size=on"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", options, raw, image)
    chs = struct.pack(">HBB", *geometry(raw.stat().st_size // SECTOR))

    def retouched(footer: bytearray) -> None:
        footer[CREATOR : CREATOR + 4] = creator
        footer[GEOMETRY : GEOMETRY + 4] = chs

    change(image, retouched)
    return image


def change(
    image: Path,
    touch: Callable[[bytearray], None],
    *,
    copies: tuple[str, ...] = ("head", "footer"),
) -> None:
    """Change the footers, those that there are, and their checksums."""
    places = {"head": 0, "footer": image.stat().st_size - SECTOR}
    with image.open("r+b") as file:
        for copy in copies:
            file.seek(places[copy])
            footer = bytearray(file.read(SECTOR))
            if footer.startswith(b"conectix"):
                touch(footer)
                footer[CHECKSUM : CHECKSUM + 4] = bytes(4)
                total = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
                footer[CHECKSUM : CHECKSUM + 4] = total
                file.seek(places[copy])
                file.write(footer)


def write_footer(image: Path, *, size: int, creator: bytes = b"win ") -> None:
    """Make a fixed image of a file with the disk's data: add the footer."""
    footer = bytearray(SECTOR)
    footer[:8] = b"conectix"
    struct.pack_into(">IIQ", footer, 8, 2, 0x10000, (1 << 64) - 1)
    footer[CREATOR : CREATOR + 4] = creator
    struct.pack_into(">QQ", footer, ORIGINAL_SIZE, size, size)
    struct.pack_into(">HBB", footer, GEOMETRY, *geometry(size // SECTOR))
    struct.pack_into(">I", footer, GEOMETRY + 4, 2)
    with image.open("ab") as file:
        file.write(footer)
    change(image, lambda _: None, copies=("footer",))


def size_of(size: int) -> Callable[[bytearray], None]:
    """Return what gives a footer another current size."""

    def touch(footer: bytearray) -> None:
        struct.pack_into(">Q", footer, CURRENT_SIZE, size)

    return touch


def geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders, heads, sectors per track: the specification's appendix."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track = 17
    tracks = sectors // per_track
    heads = max(4, (tracks + 1023) // 1024)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        per_track, heads = 63, 16
        tracks = sectors // per_track
    return tracks // heads, heads, per_track
