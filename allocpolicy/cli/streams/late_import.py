"""Doing something as soon as a module is imported, if it ever is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@contextlib.contextmanager
def watched(name: str, *, then: Callable[[], object]) -> Iterator[None]:
    """Call a function when the body has imported a module of the standard library."""
    finder = _Finder(name, then=then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.leave()


class _Finder:
    """Finds one module as Python does, and knows when it has been executed."""

    def __init__(self, name: str, *, then: Callable[[], object]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        self.leave()
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._then()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def leave(self) -> None:
        """Watch no longer."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
