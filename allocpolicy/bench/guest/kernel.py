"""The kernel that a guest boots, and its modules."""

from __future__ import annotations

import lzma
import os
import platform
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.bench.guest import programs
from allocpolicy.bench.guest.programs import NoGuest
from allocpolicy.record import dataclass

BOOT = Path("/boot")
MODULES = Path("/lib/modules")

# The kernel's Documentation/arch/x86/boot.rst: offsets in the file, and in the header.
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_POINTER_AT, _VERSION_BASE = 0x20E, 0x200
_HEADER = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel, by its file, and its version, which is that of its modules."""

    path: Path
    version: str

    @property
    def modules(self) -> Path:
        """The directory of its modules."""
        return MODULES / self.version


def newest() -> Kernel:
    """Return the newest kernel in /boot that can be read and has its modules.

    :raises NoGuest: when there is none.
    """
    _refuse_machine()
    found = sorted(BOOT.glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    readable = [path for path in found if os.access(path, os.R_OK)]
    for path in reversed(readable):
        kernel = Kernel(path=path, version=path.name.removeprefix("vmlinuz-"))
        if (kernel.modules / "modules.dep").exists():
            return kernel
    if found and not readable:
        raise NoGuest(f"{found[-1]} can't be read: name a copy of it by --kernel")
    raise NoGuest(
        f"no kernel in {BOOT} that has modules in {MODULES}: install one, as Debian's"
        " package linux-image-cloud-amd64"
    )


def of_file(path: Path) -> Kernel:
    """Return the kernel in a file, whose header says its version.

    :raises NoGuest: when it is no kernel of this machine, or has no modules here.
    """
    _refuse_machine()
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise NoGuest(f"{path}: {error.strerror}") from error
    if header[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise NoGuest(f"{path} is not a kernel of x86_64")
    (pointer,) = struct.unpack_from("<H", header, _VERSION_POINTER_AT)
    said = header[pointer + _VERSION_BASE :].partition(b"\0")[0].split()
    version = said[0].decode("ascii", "replace") if said else ""
    kernel = Kernel(path=path, version=version)
    if not version or "/" in version or not (kernel.modules / "modules.dep").exists():
        raise NoGuest(f"the modules of {path} are not in {kernel.modules}")
    return kernel


def _refuse_machine() -> None:
    if platform.machine() != "x86_64":
        raise NoGuest(f"guests are of x86_64, and this host is {platform.machine()}")


def with_dependencies(kernel: Kernel, modules: Iterable[str]) -> list[Path]:
    """Return the files of modules in the order to load them, built-in ones left out.

    :raises NoGuest: when the kernel has no such module.
    """
    root = kernel.modules
    built_in = {
        module_name(Path(line))
        for line in (root / "modules.builtin").read_text().splitlines()
    }
    dependencies = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        # modules.dep(5) lists the nearest first: the last has to be loaded first.
        dependencies[module_name(Path(path))] = [*reversed(needed.split()), path]
    ordered: dict[Path, None] = {}
    for module in modules:
        if module in built_in:
            continue
        if module not in dependencies:
            raise NoGuest(f"the kernel {kernel.version} has no module {module}")
        ordered.update((root / path, None) for path in dependencies[module])
    return list(ordered)


def module_name(path: Path) -> str:
    """Return a module's name, by its file."""
    return path.name.partition(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """Return a module as insmod takes it; distributions may ship it compressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        zstd = [programs.find("zstd"), "-dc", str(path)]
        return subprocess.run(zstd, check=True, capture_output=True).stdout
    return path.read_bytes()
