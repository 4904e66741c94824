"""Which directories are image caches, and which files are inside one.

A directory is an image cache if it is called ``_base``, has a ``.memo`` or a
``.prepared`` directory, or is the configured image_cache_dir. Inside are the files
directly in it and directly in its own ``.memo``, ``.users`` and ``.prepared``: images
and records, which promise nothing. Other directories below it are not inside, so that
``_base/vm/disk`` is a disk like any other. A file with a stamp is a disk wherever it
is; callers look for a stamp first.

An image's name says from what it was converted, and how: where an older release
converted a format wrongly, its images stay known, and are not used for another disk.
The name of a prepared disk is the hash of all that decides about it (`origin`).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

DEFAULT_NAME = "_base"  # of the cache beside the disks
HASHES = ".memo"
USERS = ".users"
PREPARED = ".prepared"
_ENTRY_NAME = (
    r"[0-9a-f]{64}\.(vmdk|vpc|vhdx|vdi|qed|vmdk-files|(gzip|xz|zstd|bzip2|ova)(-[a-z0-9]+)?)"
    r"(\.v[0-9]+)?\.raw"
)
_PREPARED_NAME = r"[0-9a-f]{64}\.prepared\.(raw|qcow2)"
# vpc: without it, QEMU computed the size, and the end of the disk could be missing.
_VERSIONS = {"vpc": ".v2"}


def is_cache(directory: str | Path, *, configured: Path | None) -> bool:
    """Return whether the directory is an image cache.

    :param configured: the operator's image_cache_dir.
    """
    real = os.path.realpath(directory)
    names = (os.path.basename(os.path.abspath(directory)), os.path.basename(real))
    return (
        DEFAULT_NAME in names
        or _is_directory(os.path.join(directory, HASHES))
        or _is_directory(os.path.join(directory, PREPARED))
        or (configured is not None and real == os.path.realpath(configured))
    )


def _is_directory(path: str) -> bool:
    """Return whether it is one itself, and no symbolic link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def is_inside(directory: str | Path, *, configured: Path | None) -> bool:
    """Return whether files directly in the directory are inside an image cache."""
    parent, name = os.path.split(directory)
    if name in (HASHES, USERS, PREPARED) and is_cache(parent, configured=configured):
        return True
    return is_cache(directory, configured=configured)


def is_entry(path: Path, *, configured: Path | None) -> bool:
    """Return whether the path is that of a converted image in an image cache."""
    return is_entry_name(path.name) and is_cache(path.parent, configured=configured)


def is_entry_name(name: str) -> bool:
    """Return whether the name is that of a converted image."""
    return re.fullmatch(_ENTRY_NAME, name) is not None


#: why a prepared disk is neither a base image nor a disk
NO_DISK = (
    "it is a prepared disk of an image cache, which may be removed at any time and must"
    " stay as it is: provision a disk like it, which is a clone"
)


def is_prepared(path: Path, *, configured: Path | None) -> bool:
    """Return whether the path is that of a prepared disk in an image cache."""
    return is_prepared_name(path.name) and is_cache(path.parent, configured=configured)


def is_prepared_name(name: str) -> bool:
    """Return whether the name is that of a prepared disk."""
    return re.fullmatch(_PREPARED_NAME, name) is not None


def prepared_name(digest: str, *, format: str) -> str:
    """Return the name of the prepared disk with this hash of its whole recipe."""
    return f"{digest}.prepared.{format}"


def entry_name(digest: str, *, source_format: str) -> str:
    """Return the name of the image that is converted from the source now."""
    return f"{digest}.{source_format}{_VERSIONS.get(source_format, '')}.raw"


def source_format(name: str) -> str:
    """Return the format that an image was converted from, by its name."""
    return name.split(".")[1]


def is_outdated(name: str) -> bool:
    """Return whether an older release converted the image, perhaps wrongly."""
    digest = name.partition(".")[0]
    return name != entry_name(digest, source_format=source_format(name))
