"""Decide, per flavor, how a VM disk's storage is allocated: the public API.

`provision` creates a disk, `apply` brings an existing one to its policy, `resize` grows
it; `inspect` and `audit` examine disks. Everything that a strategy may use is here, for
bundled and third-party strategies alike. Anything that is not listed may change.

The list is the stub beside this file, ``__init__.pyi``: type checkers read it, and so
does this module. Each name is imported on first use (PEP 562): a command pays only for
what it needs.
"""

# Not even `re` and `pathlib`: the hook of a VM without a policy needs neither.
import os
from importlib import import_module

#: the version of the installed distribution
__version__ = "0.1.0"


def _listed(file, *, loader):  # type: ignore[no-untyped-def]
    """Return the modules of the names in the stub of a package's file."""
    # By the loader, as the package may be in a zip file.
    stub = loader.get_data(f"{os.path.splitext(file)[0]}.pyi").decode()
    lines = (line.split() for line in stub.splitlines())
    return {line[3]: line[1] for line in lines if line[4:] == ["as", *line[3:4]]}


_MODULE_OF = _listed(__file__, loader=__loader__)

# Public modules, which not every program pays for: nor does an import of all names.
_MODULES = ("commands", "testing")

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604  (they are strings)


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it, or a public module."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return what a shell completes: all that is public, imported yet or not."""
    return sorted([*__all__, *_MODULES])
