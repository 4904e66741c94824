"""The bytes by which content is recognised that is no raw disk: a table, with sources.

What a VM can start from as it is stays out: partition tables, boot sectors, and
filesystems (ext4, squashfs, …), which are raw disks. An ISO 9660 image is both.

Each source is the format's own specification or its reference program; where there is
none, the place in QEMU (block/*.c) or in the magic file of file(1) that reads it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What is recognised, by what is to be done with it."""

    COMPRESSED = "compressed"
    ARCHIVE = "archive"
    IMAGE = "image"
    BACKUP = "backup"
    OPTICAL = "optical"
    OTHER = "other"


class Signature(NamedTuple):
    """Bytes at an offset from the start; from the end if it is negative.

    ``format`` is QEMU's name of an image format, and the program's of a compression.
    """

    magic: bytes
    name: str
    format: str = ""
    offset: int = 0


IMAGES = (
    Signature(b"QFI\xfb\0\0\0\1", "a qcow1 image", "qcow"),  # QEMU, block/qcow.c
    Signature(b"QFI\xfb", "a qcow2 image", "qcow2"),  # docs/interop/qcow2.rst
    Signature(b"QED\0", "a qed image", "qed"),  # docs/interop/qed_spec.rst
    Signature(b"KDMV", "a vmdk image", "vmdk"),  # Virtual Disk Format 5.0
    Signature(b"COWD", "a vmdk image of ESX (COWD)", "vmdk"),  # the same
    # QEMU, block/vmdk.c: SESPARSE_CONST_HEADER_MAGIC
    Signature(b"\xbe\xba\xfe\xca\0\0\0\0", "a vmdk image (seSparse)", "vmdk"),
    Signature(b"vhdxfile", "a vhdx image", "vhdx"),  # [MS-VHDX] 2.2.1
    Signature(b"conectix", "a vpc (VHD) image", "vpc"),  # Microsoft's VHD 1.0
    # QEMU, block/vdi.c: VDI_SIGNATURE, behind 64 bytes of text
    Signature(b"\x7f\x10\xda\xbe", "a vdi image", "vdi", 64),
    # docs/interop/parallels.txt
    Signature(b"WithoutFreeSpace", "a parallels image", "parallels"),
    Signature(b"WithouFreSpacExt", "a parallels image", "parallels"),
    Signature(b"Bochs Virtual HD Image", "a bochs image", "bochs"),  # block/bochs.c
    # QEMU, block/cloop.c
    Signature(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "a cloop image", "cloop"),
    Signature(b"koly", "a dmg image", "dmg", -512),  # block/dmg.c: UDIF trailer
    Signature(b"LUKS\xba\xbe", "a LUKS container", "luks"),  # LUKS On-Disk Format
    Signature(b"encrcdsa", "an encrypted dmg image"),  # file(1)
    Signature(b"sprs", "a sparse disk image of macOS"),  # file(1)
    Signature(b"OOOM", "a copy-on-write file of User-mode Linux"),  # file(1)
    Signature(b"\x3a\xff\x26\xed", "a sparse image of Android"),  # sparse_format.h
    Signature(b"MSWIM\0\0\0", "a Windows image (WIM)"),  # Microsoft's WIM format
    Signature(b"EVF\x09\x0d\x0a\xff\0", "an EnCase image (EWF)"),  # libewf
    Signature(b"EVF2\x0d\x0a\x81\0", "an EnCase image (EWF 2)"),  # libewf
    Signature(b"AFF10\r\n\0", "a forensic image (AFF)"),  # AFFLIB
)
COMPRESSED = (
    Signature(b"\x1f\x8b\x08", "compressed by gzip", "gzip"),  # RFC 1952, 2.3.1
    Signature(b"\xfd7zXZ\0", "compressed by xz", "xz"),  # the .xz File Format, 2.1.1.1
    Signature(b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd"),  # RFC 8878, 3.1.1
    Signature(b"LZIP\1", "compressed by lzip", "lzip"),  # lzip's manual
    Signature(b"LZIP\0", "compressed by lzip", "lzip"),
    Signature(b"\x89LZO\0\r\n\x1a\n", "compressed by lzop", "lzop"),  # lzop, lzop.c
    Signature(b"\x04\x22\x4d\x18", "compressed by lz4", "lz4"),  # LZ4 Frame Format
    Signature(b"\x02\x21\x4c\x18", "compressed by lz4", "lz4"),  # its legacy frame
    Signature(b"\xff\x06\0\0sNaPpY", "compressed by snappy"),  # framing_format.txt
    Signature(b"LRZI", "compressed by lrzip", "lrzip"),  # lrzip, doc/magic.header.txt
)
ARCHIVES = (
    Signature(b"PK\3\4", "a zip archive"),  # PKWARE's APPNOTE.TXT, 4.3.7
    Signature(b"PK\5\6", "an empty zip archive"),
    Signature(b"PK\7\x08", "a zip archive of several parts"),
    Signature(b"7z\xbc\xaf\x27\x1c", "a 7z archive"),  # 7zFormat.txt
    Signature(b"Rar!\x1a\x07", "a rar archive"),  # RAR 5.0 archive format
    Signature(b"MSCF\0\0\0\0", "a cabinet archive"),  # [MS-CAB] 2.1
    Signature(b"070701", "a cpio archive"),  # cpio(5)
    Signature(b"070702", "a cpio archive"),
    Signature(b"070707", "a cpio archive"),
    Signature(b"!<arch>\n", "an ar archive"),  # ar(5); Debian packages are
    Signature(b"xar!", "a xar archive"),  # file(1)
    Signature(b"\xed\xab\xee\xdb", "an rpm package"),  # rpm, lib/rpmlead.c
    Signature(b"ustar", "a tar archive", "tar", 257),  # POSIX.1-2017, pax
)
BACKUPS = (
    Signature(b"VMA\0", "a backup of Proxmox VE (vma)"),  # pve-qemu, vma_spec.txt
    Signature(b"partclone-image", "a copy made by partclone"),  # IMAGE_FORMATS.md
    Signature(b"PaRtImAgE-VoLuMe", "a copy made by partimage"),  # file(1)
    Signature(b"\xfe\xef\1", "a copy made by Norton Ghost"),  # file(1)
    Signature(b"btrfs-stream\0", "a stream of btrfs send"),  # kernel, fs/btrfs/send.h
    # OpenZFS, include/sys/zfs_ioctl.h: DMU_BACKUP_MAGIC
    Signature(b"\xac\xcb\xba\xf5\2\0\0\0", "a stream of zfs send", "", 8),
    Signature(b"xfsdump0", "a copy made by xfsdump"),  # file(1)
    Signature(b"rbd diff v", "a stream of rbd export-diff"),  # Ceph, rbd-diff.rst
    Signature(b"rbd image v", "a stream of rbd export"),  # Ceph, Export.cc
    Signature(b"QEVM", "a saved state of QEMU"),  # migration/qemu-file-types.h
    Signature(b"LibvirtQemud", "a saved state of libvirt"),  # qemu_saveimage.h
)
OPTICAL = (
    Signature(b"CD001", "an ISO 9660 image", "", 32769),  # ECMA-119, 8.1.2
    Signature(b"BEA01", "a UDF image", "", 32769),  # ECMA-167, 2/9.2
)
OTHERS = (
    Signature(b"\x7fELF", "a program or a kernel (ELF)"),  # elf(5)
    # kernel, Documentation/arch/x86/boot.rst; an arm64 one says it at 56
    Signature(b"HdrS", "a Linux kernel", "", 0x202),
    Signature(b"ARM\x64", "a Linux kernel", "", 56),
    Signature(b"\x27\x05\x19\x56", "an image of U-Boot"),  # U-Boot, image.h
    Signature(b"\xd0\x0d\xfe\xed", "a device tree"),  # Devicetree Specification 5.2
    Signature(b"%PDF-", "a PDF document"),  # ISO 32000-1, 7.5.2
    Signature(b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),  # W3C PNG, 5.2
    Signature(b"\xff\xd8\xff", "a picture (JPEG)"),  # ITU T.81, B.1.1.3
    Signature(b"GIF8", "a picture (GIF)"),  # GIF89a, 17
    Signature(b"SQLite format 3\0", "an SQLite database"),  # SQLite, fileformat2
    Signature(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE document"),  # [MS-CFB] 2.2
    # ECMA-130, 14: a sector of 2352 bytes starts so
    Signature(b"\0" + b"\xff" * 10 + b"\0", "raw sectors of a CD (BIN)"),
    Signature(b"MEDIA DESCRIPTOR", "a description of a CD (MDS)"),  # file(1)
)
TABLES = {
    Kind.COMPRESSED: COMPRESSED,
    Kind.ARCHIVE: ARCHIVES,
    Kind.BACKUP: BACKUPS,
    Kind.OTHER: OTHERS,
    # last: what is at 32 KiB may be the first file of an archive
    Kind.IMAGE: IMAGES,
    Kind.OPTICAL: OPTICAL,
}
