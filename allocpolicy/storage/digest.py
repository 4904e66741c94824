"""A hash that names what it is of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return str(_constructor()(data).hexdigest())


@functools.cache
def _constructor() -> Callable[[bytes], Any]:
    """Return the interpreter's own: hashlib loads OpenSSL, which takes 2 ms."""
    for name in ("_sha2", "_sha256"):  # of Python 3.12, and of those before it
        try:
            return import_module(name).sha256  # type: ignore[no-any-return]
        except ImportError:
            continue
    import hashlib

    return hashlib.sha256
