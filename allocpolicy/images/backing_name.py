"""Backing names as QEMU reads them: a protocol, or a path relative to the image."""

from __future__ import annotations

import json
from pathlib import Path

_FILE, _JSON = "file:", "json:"


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


def file(name: str, *, image: Path) -> Path | None:
    """Return the path of the file that a backing name leads to, protocols included.

    It is for comparing files, and not for opening one: a path in a protocol may be that
    of a host, or of a namespace. None if it leads to no file that is known, such as one
    relative to QEMU's working directory.
    """
    if not has_protocol(name):
        return image.parent / name
    path = name.removeprefix(_FILE)
    if name.startswith(_JSON):
        path = _filename(name.removeprefix(_JSON))
    return Path(path) if path.startswith("/") and "\0" not in path else None


def _filename(options: str) -> str:
    """Return the file in a block device's options as JSON, or an empty string.

    Options are nested (``"file": {"filename": …}``), or flat (``"file.filename": …``).
    """
    try:
        found = json.loads(options)
    except (ValueError, RecursionError):
        return ""
    while isinstance(found, dict):
        flat = [value for key, value in found.items() if _is_filename(key)]
        found = flat[0] if flat else found.get("file")
    return found if isinstance(found, str) else ""


def _is_filename(key: str) -> bool:
    *layers, last = key.split(".")
    return last == "filename" and all(one == "file" for one in layers)
