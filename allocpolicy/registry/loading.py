"""Importing the target of an entry point and calling it: by stevedore, or as it does.

stevedore's cache under ~/.cache/python-entrypoints outlives a reinstallation and loses
the distribution, and its check for duplicates compares only neighbours: it gets the one
entry point that was found. Importing it, and importlib.metadata with it, takes 18 ms:
neither the start of a VM nor a command that isn't about strategies waits for that.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from allocpolicy import schema

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from stevedore.extension import ExtensionManager

# As importlib.metadata reads it; extras mean nothing any more.
_TARGET = re.compile(r"(?P<module>[\w.]+)\s*(:\s*(?P<object>[\w.]+)\s*)?(\[.*\]\s*)?")

_DIRECTLY = ContextVar("_DIRECTLY", default=False)


@contextlib.contextmanager
def directly() -> Iterator[None]:
    """Do without stevedore while the body runs; what is loaded is the same."""
    before = _DIRECTLY.set(True)
    try:
        yield
    finally:
        _DIRECTLY.reset(before)


def instance(name: str, target: str, *, group: str) -> object:
    """Return what the target of an entry point makes when it is called.

    :raises schema.Invalid: when the target is not of the form module:object.
    :raises BaseException: what importing or calling it raises.
    """
    if (parts := _TARGET.fullmatch(target)) is None:
        raise schema.Invalid("its entry point is not of the form module:object")
    if not _DIRECTLY.get():
        return _by_stevedore(name, target, group=group)
    made: Any = importlib.import_module(parts["module"])
    for part in filter(None, (parts["object"] or "").split(".")):
        made = getattr(made, part)
    return made()


def _by_stevedore(name: str, target: str, *, group: str) -> object:
    from importlib.metadata import EntryPoint

    from stevedore.named import NamedExtensionManager

    # Not subscripted: stevedore is generic only since 5.6.
    class Selected(NamedExtensionManager):  # type: ignore[type-arg]
        """Sees only the entry point that was found."""

        def list_entry_points(self) -> list[EntryPoint]:
            return [EntryPoint(name=name, value=target, group=group)]

    manager = Selected(
        group, [name], invoke_on_load=True, on_load_failure_callback=_fail
    )
    made: object = manager.extensions[0].obj
    return made


def _fail(
    _manager: ExtensionManager[Any], _entry_point: EntryPoint, error: BaseException
) -> NoReturn:
    raise error
