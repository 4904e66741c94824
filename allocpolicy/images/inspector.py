"""Determining the format of an image's content with the inspector of oslo.utils.

A declared format must match the content. Without one, the content decides unless it is
ambiguous; what is recognised as something else than a disk is no raw image then.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import oslo_utils

from allocpolicy.errors import ImageError
from allocpolicy.foreign import ova, recognition
from allocpolicy.foreign.signatures import Kind
from allocpolicy.images.formats import FORMATS, INSPECTORS
from allocpolicy.qcow2 import geometry
from allocpolicy.storage import reading

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

_QEMU_NAMES = {theirs: ours for ours, theirs in INSPECTORS.items()}
# What a disk image may be packed in; it is taken out first.
SPLIT = "vmdk-files"  # a vmdk descriptor that names other files
PACKED = frozenset({"gzip", "xz", "zstd", "bzip2", "ova", SPLIT})
# What the inspector may find in a raw disk, which holds the guest's bytes.
_RAW_CONTENT = frozenset({"raw", "gpt", "iso"})
_RECOGNIZED = frozenset({"raw", "luks"})  # told apart by `recognition`
_CHUNK = 1 << 20
_DESCRIPTOR = 4096  # of a vmdk: enough to recognise it
_READ_AT_LEAST = 64 << 20  # a vhdx keeps in the first few MiB what must be read
_VPC_COOKIE, _VPC_FOOTER_SIZE = b"conectix", 512
_OLD_VPC_FOOTER_SIZE = 511  # "Virtual Hard Disk Image Format Specification" 1.0
_STRUTILS = "oslo_utils.strutils"


def inspect(fd: int, *, path: Path) -> str:
    """Return the name of the inspector that matches the content; raw if none does.

    No more is read than the file stores, and a little: a header can send an inspector
    to the end of a sparse file of any size.

    :raises ImageError: when several match, or none has decided by then.
    """
    format_inspector = _imported()
    with io.FileIO(os.dup(fd)) as stream:
        stream.seek(0)
        wrapper = format_inspector.InspectWrapper(stream)
        left = os.fstat(fd).st_blocks * 512 + _READ_AT_LEAST
        while chunk := wrapper.read(_CHUNK):
            left -= len(chunk)
            if wrapper.formats:
                break
            if left < 0:
                reason = "it is malformed: its header points far beyond what it stores"
                raise ImageError(path, reason)
        wrapper.close()
        matches: list[FileInspector] = wrapper.formats or []
    names = {str(match) for match in matches}
    if names <= _RAW_CONTENT:
        return "raw"
    if len(matches) > 1:
        several = ", ".join(sorted(names))
        raise ImageError(path, f"its content matches several formats: {several}")
    return str(matches[0])


def agreed_format(
    fd: int,
    found: str,
    *,
    path: Path,
    declared: str | None,
    unpacked: bool = False,
) -> str:
    """Return QEMU's name of the format, on which declaration and content agree.

    Of a packed image it is one of `PACKED`; a declaration other than raw is about the
    image in it, and what is ``unpacked`` can't be declared raw.

    :raises ImageError: when they don't, or the format is ambiguous or not supported.
    """
    if found in ("raw", "vmdk") and declared in (None, "vmdk") and _is_split(fd):
        return SPLIT
    if declared is None:
        return _found_format(fd, found, path=path, unpacked=unpacked)
    if declared not in INSPECTORS:
        choices = ", ".join(FORMATS)
        raise ImageError(path, f"unknown base format {declared!r}: use {choices}")
    if declared == "vpc" and found == "raw" and _is_fixed_vpc(fd):
        return declared
    if declared != "raw" and found == "raw" and (outer := _packed_in(fd)):
        return outer  # the declaration is that of what is in it
    if declared == "raw" and found == "luks":  # the guest's own encryption
        return declared
    if INSPECTORS[declared] != found:
        content = _QEMU_NAMES.get(found, found)
        reason = f"declared as {declared}, but its content is {content}"
        raise ImageError(path, reason)
    return declared


def _found_format(fd: int, found: str, *, path: Path, unpacked: bool) -> str:
    """Return QEMU's name of the format that the inspector found."""
    if found == "raw" and _is_fixed_vpc(fd):
        reason = "it may be raw or a fixed vpc: its last sector is a vpc footer"
        remedy = "state which with --base-format raw or vpc"
        if unpacked:
            remedy = "say --base-format vpc, or unpack it first if it is raw"
        raise ImageError(path, f"{reason}; {remedy}")
    if found == "raw" and _is_fixed_vpc(fd, footer=_OLD_VPC_FOOTER_SIZE):
        reason = (
            "it may be raw or a fixed vpc: it ends in a vpc footer of 511 bytes, as"
        )
        remedy = (
            "versions of Virtual PC before 2004 wrote it; state --base-format raw, or"
            " append the byte that it lacks (truncate -s +1 on a copy) and state vpc"
        )
        raise ImageError(path, f"{reason} {remedy}")
    if found == "raw" and (outer := _packed_in(fd)):
        return outer
    if found in _RECOGNIZED:
        _refuse_recognized(fd, path=path, unpacked=unpacked)
    if found not in _QEMU_NAMES:
        choices = ", ".join(FORMATS)
        raise ImageError(path, f"its format {found} is not supported: use {choices}")
    return _QEMU_NAMES[found]


def _is_split(fd: int) -> bool:
    return recognition.is_vmdk_descriptor(reading.read(fd, _DESCRIPTOR, offset=0))


def _packed_in(fd: int) -> str | None:
    """Return what the image is packed in, one of `PACKED`; None if it isn't."""
    content = recognition.recognized(fd)
    if content is None:
        return None
    if content.format == "tar" and ova.is_ova(fd):
        return "ova"
    return content.format if content.format in PACKED else None


def _refuse_recognized(fd: int, *, path: Path, unpacked: bool) -> None:
    """Refuse content that is something else than a disk, so that raw must be declared.

    :raises ImageError: naming what it is, and what to do.
    """
    content = recognition.recognized(fd)
    if content is not None and content.kind is not Kind.OPTICAL:  # that boots, too
        reason = f"it is {content.name}, no raw or known disk image; {content.remedy}"
    elif 0 < (size := os.fstat(fd).st_size) < geometry.SECTOR_SIZE:
        reason = f"it has {size} bytes, less than a sector: was the download complete?"
    else:
        return
    if unpacked:
        raise ImageError(path, f"what is packed in it can't be a disk: {reason}")
    raise ImageError(path, f"{reason} (with --base-format raw, its bytes are the disk)")


def _is_fixed_vpc(fd: int, *, footer: int = _VPC_FOOTER_SIZE) -> bool:
    """Return whether the file ends in a VHD footer (a fixed VHD starts with data)."""
    offset = max(0, os.fstat(fd).st_size - footer)
    return reading.read(fd, len(_VPC_COOKIE), offset=offset) == _VPC_COOKIE


def _imported() -> ModuleType:
    """Import the inspector, and delay the other imports of its package.

    Its package also imports a parser of qemu-img's output, which imports `strutils`,
    whose regular expressions take 40 ms to compile: five times the inspector itself.
    """
    if _STRUTILS not in sys.modules:
        _import_lazily(_STRUTILS)
    from oslo_utils.imageutils import format_inspector

    return format_inspector


def _import_lazily(name: str) -> None:
    """Import a module of oslo.utils that runs only when it is first used.

    As in importlib's documentation ("Implementing lazy imports"). Other importers get
    the same, complete module.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # As every import does; otherwise `from oslo_utils import …` would run the module.
    setattr(oslo_utils, name.rpartition(".")[2], module)
