"""Determining the format of an image's content with the inspector of oslo.utils.

A declared format must match the content. Without one, the content decides unless it is
ambiguous.
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
from allocpolicy.storage import reading

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

# QEMU's name of a format -> the inspector's.
INSPECTORS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vpc": "vhd",
    "vhdx": "vhdx",
}
FORMATS = tuple(INSPECTORS)
# What the inspector may find in a raw disk, which holds the guest's bytes.
_RAW_CONTENT = frozenset({"raw", "gpt", "iso"})
_CHUNK = 1 << 20
_READ_AT_LEAST = 64 << 20  # a vhdx keeps in the first few MiB what must be read
_VPC_COOKIE, _VPC_FOOTER_SIZE = b"conectix", 512
_STRUTILS = "oslo_utils.strutils"


def inspect(fd: int, *, path: Path) -> FileInspector | None:
    """Return the inspector that matches the content; None if the content is raw.

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
        return None
    if len(matches) > 1:
        several = ", ".join(sorted(names))
        raise ImageError(path, f"its content matches several formats: {several}")
    return matches[0]


def agreed_format(
    fd: int, inspector: FileInspector | None, *, path: Path, declared: str | None
) -> str:
    """Return QEMU's name of the format, on which declaration and content agree.

    :raises ImageError: when they don't, or the format is ambiguous or not supported.
    """
    found = "raw" if inspector is None else str(inspector)
    qemu_name = {theirs: ours for ours, theirs in INSPECTORS.items()}
    if declared is not None:
        if declared not in INSPECTORS:
            choices = ", ".join(FORMATS)
            raise ImageError(path, f"unknown base format {declared!r}: use {choices}")
        if declared == "vpc" and found == "raw" and _is_fixed_vpc(fd):
            return declared
        if INSPECTORS[declared] != found:
            content = qemu_name.get(found, found)
            reason = f"declared as {declared}, but its content is {content}"
            raise ImageError(path, reason)
        return declared
    if found == "raw" and _is_fixed_vpc(fd):
        reason = "it may be raw or a fixed vpc: its last sector is a vpc footer"
        raise ImageError(path, f"{reason}; state which with --base-format raw or vpc")
    if found not in qemu_name:
        choices = ", ".join(FORMATS)
        raise ImageError(path, f"its format {found} is not supported: use {choices}")
    return qemu_name[found]


def _is_fixed_vpc(fd: int) -> bool:
    """Return whether the file ends in a VHD footer (a fixed VHD starts with data)."""
    footer = max(0, os.fstat(fd).st_size - _VPC_FOOTER_SIZE)
    return reading.read(fd, len(_VPC_COOKIE), offset=footer) == _VPC_COOKIE


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
