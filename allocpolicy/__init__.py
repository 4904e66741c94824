"""Decide, per flavor, how a VM disk's storage is allocated: the public API.

`provision` creates a disk, `apply` brings an existing one to its policy, `resize` grows
it; `inspect` and `audit` examine disks. Everything that a strategy may use is here, for
bundled and third-party strategies alike. Anything that is not listed may change.

The list is the stub beside this file, ``__init__.pyi``: type checkers read it, and so
does this module. Each name is imported on first use (PEP 562): a command pays only for
what it needs.
"""

import re
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_LINE = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)
# By the loader, as the package may be in a zip file.
_STUB = __loader__.get_data(str(Path(__file__).with_suffix(".pyi"))).decode()
_MODULE_OF = {name: module for module, name in _LINE.findall(_STUB)}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604  (they are strings)


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
