"""Recognising content that is clearly something else than a raw disk.

It guards against mistakes: an archive, a text, or an image of another format would be a
disk that no VM starts from. It is no proof of the contrary: a guest may write any of it
into a raw disk.
"""

from __future__ import annotations

import os
import re

from allocpolicy.foreign.signatures import TABLES, Kind, Signature
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

_HEAD = 64 << 10
_TAIL = 512
_SECTOR = 512
_TAR_CHECKSUM = slice(148, 156)
_COMPRESSED = (  # a pattern of the beginning -> what compressed it, and undoes it
    # No specification: bzip2's compress.c. A block follows, or the end if it is empty.
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "bzip2", "bzip2"),
    # RFC 8878, 3.1.2: a skippable frame may come first, as pzstd writes it.
    (rb"[\x50-\x5f]\x2a\x4d\x18", "zstd", "zstd"),
    # LZMA Utils: lc, lp and pb as always, a dictionary of 4 KiB to 1.5 GiB, a size.
    (rb"\x5d\0{2}[\0-\xff]{2}(\xff{8}|.{5}\0{3})", "lzma", "xz"),
    # ncompress: the largest code has 9 to 16 bits.
    (rb"\x1f\x9d[\x89-\x90]", "compress", "uncompress"),
)
# Microsoft's PE format: the signature is where offset 60 says.
_PE, _PE_POINTER = b"PE\0\0", slice(60, 64)

_CONTROL = r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]"
_TEXTS = (  # its beginning, without white space, in lower case -> what it is
    (r"<!doctype html|<html", "an HTML page, perhaps of a failed download"),
    (r"<\?xml|<envelope|<ovf:", "an XML text (an OVF description?)"),
    (r"[{\[]\s*[\"{\[\]}]", "a JSON text"),
    (r"-----begin [a-z ]+-----", "a signature or a key"),
    (r"(sha\d+|md5) ?\(", "a list of checksums"),
    (r"[0-9a-f]{32,128} [ *]\S", "a list of checksums"),
    (r"#!", "a script"),
)
# QEMU, block/vmdk.c, vmdk_probe: comments and empty lines, then the version.
_DESCRIPTOR = r"\s*# *disk descriptorfile|(\s|#[^\n]*\n)*version\s*=\s*[123]\s"
BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file's content is, in words, with an article or as a participle.

    ``format`` is QEMU's name of an image format, or the program's of a compression;
    empty if there is none.
    """

    name: str
    kind: Kind
    format: str = ""

    @property
    def remedy(self) -> str:
        """Return what to do so that it becomes a base image."""
        match self.kind:
            case Kind.COMPRESSED:
                program = self.format or "its program"
                how = program if program == "uncompress" else f"{program} -d"
                return f"decompress it first{f' ({how})' if self.format else ''}"
            case Kind.ARCHIVE:
                return "take the disk image out of it first"
            case Kind.BACKUP:
                return "restore it first, and give the disk that results"
            case Kind.IMAGE if self.format == "luks":
                return "open it first, and copy what is in it"
            case Kind.IMAGE:
                option = f" -f {self.format}" if self.format else ""
                program = "qemu-img convert" if self.format else "its own program"
                return f"convert it to qcow2 with {program}{option} first"
            case _:
                return "give the disk image itself (was the download complete?)"


def recognized(fd: int) -> Content | None:
    """Return what the content is if it isn't that of a raw disk; otherwise None.

    A few KiB at both ends of the file are read. A fixed VHD, whose footer is all that
    tells it from a raw disk, is left to `images.inspector`.
    """
    head = reading.read(fd, _HEAD, offset=0)
    size = os.fstat(fd).st_size
    tail = reading.read(fd, _TAIL, offset=max(0, size - _TAIL))
    for kind, signatures in TABLES.items():
        for signature in signatures:
            if _matches(signature, head=head, tail=tail):
                return Content(name=signature.name, kind=kind, format=signature.format)
    return _by_rules(head) or _text(head)


def _matches(signature: Signature, *, head: bytes, tail: bytes) -> bool:
    if signature.offset < 0:
        return tail[signature.offset :].startswith(signature.magic)
    return head.startswith(signature.magic, signature.offset)


def _by_rules(head: bytes) -> Content | None:
    """Recognise what no fixed bytes tell."""
    for pattern, name, program in _COMPRESSED:
        if re.match(pattern, head, re.DOTALL):
            said = f"compressed by {name}"
            return Content(name=said, kind=Kind.COMPRESSED, format=program)
    if _is_old_tar(head):
        return Content(name="a tar archive", kind=Kind.ARCHIVE, format="tar")
    pointer = int.from_bytes(head[_PE_POINTER], "little")
    if head.startswith(b"MZ") and head.startswith(_PE, pointer):
        return Content(name="a program for Windows or EFI", kind=Kind.OTHER)
    return None


def _is_old_tar(head: bytes) -> bool:
    """Return whether it is a tar header without magic: its checksum is right.

    As in GNU tar's manual, "Basic Tar Format": the sum of the header's bytes, those of
    the checksum itself taken as spaces.
    """
    header = head[:_SECTOR]
    digits = header[_TAR_CHECKSUM].strip(b" \0")
    if len(header) < _SECTOR or not re.fullmatch(rb"[0-7]{1,7}", digits):
        return False
    total = sum(header) - sum(header[_TAR_CHECKSUM]) + 8 * ord(" ")
    return header[0] != 0 and total == int(digits, 8)


def _text(head: bytes) -> Content | None:
    """Recognise text, if it has lines or is no whole sector; NULs may pad it."""
    if is_vmdk_descriptor(head):
        name = "a vmdk descriptor, which names other files"
        return Content(name=name, kind=Kind.IMAGE, format="vmdk")
    text = _decoded(head.rstrip(b"\0"))
    if text is None or not text.strip():
        return None
    beginning = text[:4096].lower()
    for pattern, name in _TEXTS:
        if re.match(pattern, beginning.lstrip()):
            return Content(name=name, kind=Kind.OTHER)
    if "\n" in text or "\r" in text or len(head) < _SECTOR:
        return Content(name="a text", kind=Kind.OTHER)
    return None


def is_vmdk_descriptor(head: bytes) -> bool:
    """Return whether QEMU, or a tool less strict, would take it for a descriptor."""
    for _, encoding in (*BYTE_ORDER_MARKS, (b"", "latin-1")):
        text = head.decode(encoding, errors="replace").partition("\0")[0]
        if re.match(_DESCRIPTOR, text.lower()):
            return True
    return False


def _decoded(data: bytes) -> str | None:
    """Return the text that the bytes are; None if they are none."""
    encoding = "latin-1"  # no byte is an error in it; UTF-8's are printable in it
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            encoding = name
    if encoding == "utf-16":
        data += b"\0" * (len(data) % 2)
    text = data.decode(encoding, errors="replace")
    return None if re.search(_CONTROL, text) else text
