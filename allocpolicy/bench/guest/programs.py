"""What a guest needs of the host, and how to get what is missing."""

from __future__ import annotations

import os
from pathlib import Path

# Debian's packages; others name theirs much the same.
_PACKAGES = {
    "busybox": "busybox-static",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "zstd": "zstd",
}
# Administrators' programs, which the PATH of an ordinary user may lack.
_ALSO = "/usr/local/sbin:/usr/sbin:/sbin"


class NoGuest(Exception):
    """The host can't run a guest: why, and what to do."""


def find(name: str) -> str:
    """Return the path of a program.

    :raises NoGuest: when it isn't installed.
    """
    for directory in f"{os.environ.get('PATH', os.defpath)}:{_ALSO}".split(":"):
        path = Path(directory) / name
        if directory and path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise NoGuest(f"{name} is missing: install Debian's package {_PACKAGES[name]}")


def busybox() -> Path:
    """Return busybox, linked statically.

    :raises NoGuest: when it is missing, or needs libraries.
    """
    path = Path(find("busybox"))
    if b"/ld-linux" in path.read_bytes():
        raise NoGuest(f"{path} is not static: install Debian's package busybox-static")
    return path
