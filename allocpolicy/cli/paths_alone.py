"""Importing pathlib without urllib, which takes 2 ms and makes URLs of paths.

Before Python 3.13, pathlib imports it for `Path.as_uri` alone.
"""

from __future__ import annotations

import sys
from types import ModuleType


def begin() -> None:
    """Import pathlib; it imports urllib when a path is made a URL."""
    if "pathlib" in sys.modules or "urllib.parse" in sys.modules:
        return
    name = "urllib.parse"
    meanwhile = ModuleType(name)
    meanwhile.__dict__["quote_from_bytes"] = _quoted
    sys.modules[name] = meanwhile
    try:
        import pathlib  # noqa: F401
    finally:
        if sys.modules.get(name) is meanwhile:
            del sys.modules[name]


def _quoted(text: bytes, safe: str = "/") -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(text, safe)
