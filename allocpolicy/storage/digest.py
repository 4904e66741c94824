"""A hash that names what it is of."""

from __future__ import annotations

import contextlib
from importlib import import_module


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    # As `random` does it: hashlib loads OpenSSL, which takes 2 ms.
    for name in ("_sha2", "_sha256"):
        with contextlib.suppress(ImportError):
            return str(import_module(name).sha256(data).hexdigest())
    import hashlib

    return hashlib.sha256(data).hexdigest()
