"""Backing names as QEMU reads them: a protocol, or a path relative to the image."""

from __future__ import annotations

from pathlib import Path


def has_protocol(name: str) -> bool:
    """Return whether QEMU takes the name for a protocol, and never for a file's path.

    So it does with ``json:{…}``, ``nbd:host:port``, ``file:x`` and also ``x:y``
    (block.c, path_has_protocol).
    """
    return ":" in name.partition("/")[0]


def path(name: str, *, image: Path) -> Path:
    """Return the path that an image's backing name stands for.

    The name itself where it is no path.

    :param image: the image's path, without symbolic links.
    """
    return Path(name) if has_protocol(name) else image.parent / name
