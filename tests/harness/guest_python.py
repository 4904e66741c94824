"""Our code in a guest: for what the host's kernel lacks, as quotas often are.

The guest has this interpreter, its standard library and the package ``allocpolicy``, in
a root directory of their own on a disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import allocpolicy
from tests.harness.filesystems import require_program, run
from tests.harness.guest import DEFAULT_MODULES, GuestDisk, run_guest
from tests.harness.patience import PATIENCE

SERIAL = "python"
SIZE = 192 << 20
TIMEOUT = PATIENCE  # the interpreter is slow when it is emulated
LEFT_OUT = (
    *("test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "config-*", "__pycache__", "*.a"),
)


def run_python(
    code: str,
    *,
    directory: Path,
    disks: Sequence[GuestDisk],
    mounts: Mapping[str, str],
    modules: Sequence[str] = (),
) -> str:
    """Run code in a guest and return what it printed.

    :param directory: where the guest's own disk is made.
    :param mounts: for the serial of each disk that is to be mounted, at the directory
        of that name, the options of mount(8) with the type.
    :raises GuestFailed: when the code fails.
    :raises Unavailable: when the host can't run guests.
    """
    python = GuestDisk(path=image(directory, code, mounts), format="raw", serial=SERIAL)
    lines = [
        f"mount -t ext4 /dev/disk-{SERIAL} /mnt",
        "mount -t proc proc /mnt/proc",
        "mount -t devtmpfs devtmpfs /mnt/dev",
        *(
            f"mount {options} $(readlink -f /dev/disk-{serial}) /mnt/{serial}"
            for serial, options in mounts.items()
        ),
        f"PYTHONPATH=/src chroot /mnt {interpreter()} -S -B /src/script.py",
    ]
    return run_guest(
        " && ".join(lines),
        disks=[python, *disks],
        modules=(*DEFAULT_MODULES, *modules),
        timeout=TIMEOUT,
    )


def interpreter() -> Path:
    return Path(os.path.realpath(sys.executable))


def image(directory: Path, code: str, mounts: Mapping[str, str]) -> Path:
    """Make the disk with the interpreter, our package and the code."""
    root, path = directory / "root", directory / "python.img"
    for name in ("proc", "dev", *mounts):
        (root / name).mkdir(parents=True)
    standard = Path(sysconfig.get_path("stdlib"))
    package = Path(allocpolicy.__file__).parent
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(standard, within(root, standard), ignore=ignored)
    shutil.copytree(package, root / "src" / "allocpolicy", ignore=ignored)
    (root / "src" / "script.py").write_text(code)
    for library in {interpreter(), *libraries(interpreter()), *of_ctypes()}:
        target = within(root, library)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    with path.open("wb") as file:
        file.truncate(SIZE)
    run(require_program("mke2fs"), "-q", "-F", "-t", "ext4", "-d", root, path)
    shutil.rmtree(root)
    return path


def within(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def of_ctypes() -> Iterator[Path]:
    """Yield the libraries of ctypes, the only extension module that brings some."""
    import _ctypes

    yield from libraries(Path(_ctypes.__file__))


def libraries(path: Path) -> Iterator[Path]:
    """Yield the shared libraries that a program needs, its loader among them."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
    for word in listed.stdout.split():
        if word.startswith("/"):
            yield Path(word)
