"""Importing the target of an entry point and calling it, as stevedore does.

stevedore takes 18 ms of every command to import, and importlib.metadata with it; what
they would do with the one entry point that was found is two lines.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from allocpolicy import schema

# As importlib.metadata reads it; extras mean nothing any more.
_TARGET = re.compile(r"(?P<module>[\w.]+)\s*(:\s*(?P<object>[\w.]+)\s*)?(\[.*\]\s*)?")


def instance(target: str) -> object:
    """Return what the target of an entry point makes when it is called.

    :raises schema.Invalid: when the target is not of the form module:object.
    :raises BaseException: what importing or calling it raises.
    """
    if (parts := _TARGET.fullmatch(target)) is None:
        raise schema.Invalid("its entry point is not of the form module:object")
    made: Any = importlib.import_module(parts["module"])
    for part in filter(None, (parts["object"] or "").split(".")):
        made = getattr(made, part)
    return made()
