"""The conformance suite: what every strategy keeps to, and the means to try it.

For authors of strategies; docs/reference/conformance.md has the laws. The names are
listed in the stub beside this file, and each is imported on first use, as in
`allocpolicy`: only `StrategyConformance` needs pytest.
"""

from importlib import import_module

from allocpolicy import _listed

_MODULE_OF = _listed(__file__, loader=__loader__)

__all__ = [*_MODULE_OF]  # noqa: PLE0604  (they are strings)


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
