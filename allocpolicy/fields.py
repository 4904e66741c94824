"""What a program gives for the fields of a record, made what their annotations say.

`arguments` has what becomes of each value. A record that scripts fill calls
`fit_fields` when it is made; its fields are of the kinds that are known here.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from types import GenericAlias

from allocpolicy import arguments, record_class
from allocpolicy.arguments import Fit

_put = object.__setattr__


def fit_fields(record: object) -> None:
    """Make each field of a new record what its annotation says.

    :raises InvalidRequest: for a value that can't be that.
    """
    kind = type(record)
    for field, fit in _fits(kind):
        value = getattr(record, field)
        fitted = fit(value, f"{kind.__name__}.{field}")
        if fitted is not value:
            _put(record, field, fitted)


def _anything(value: object, name: str) -> object:
    return value


_PLAIN: dict[str, Fit] = {
    "Path": arguments.path,
    "Size": arguments.size,
    "bool": arguments.flag,
    "float": arguments.real,
    "int": arguments.number,
    "object": _anything,
    "str": arguments.text,
}
_FITS: dict[type, tuple[tuple[str, Fit], ...]] = {}


def _fits(kind: type) -> tuple[tuple[str, Fit], ...]:
    """Return each field of a record's class, and what makes a value fit it."""
    if kind not in _FITS:
        fields = record_class.of(kind) or {}
        names = vars(sys.modules[record_class.declaring(kind).__module__])
        _FITS[kind] = tuple(
            (field, _fit(str(one.annotation), names)) for field, one in fields.items()
        )
    return _FITS[kind]


def _fit(annotation: str, names: Mapping[str, object]) -> Fit:
    """Return what makes a value fit an annotation of this module's names."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if annotation.endswith(" | None"):
        return _optional(_fit(annotation.removesuffix(" | None"), names))
    kind, _, inner = annotation.removesuffix("]").partition("[")
    if kind == "Mapping":
        key, _, value = inner.partition(", ")
        return _mapping(_fit(key, names), _fit(value, names))
    if kind == "tuple":
        return _tuple(inner, names)
    found = names[annotation]
    if isinstance(found, GenericAlias):
        return _fit(str(found), names)
    assert isinstance(found, type)
    return _of_enum(found) if issubclass(found, enum.Enum) else _of_class(found)


def _tuple(inner: str, names: Mapping[str, object]) -> Fit:
    if inner.endswith(", ..."):
        return _list(_fit(inner.removesuffix(", ..."), names))
    return _fixed([_fit(one, names) for one in inner.split(", ")])


def _optional(fit: Fit) -> Fit:
    return lambda value, name: None if value is None else fit(value, name)


def _of_enum(kind: type[enum.Enum]) -> Fit:
    return lambda value, name: arguments.member(kind, value, name)


def _of_class(kind: type) -> Fit:
    return lambda value, name: arguments.instance(kind, value, name)


def _mapping(key: Fit, item: Fit) -> Fit:
    def fit(value: object, name: str) -> object:
        fitted = arguments.mapping_of(value, name, key=key, item=item)
        return value if fitted == value else fitted

    return fit


def _list(item: Fit) -> Fit:
    def fit(value: object, name: str) -> object:
        if not isinstance(value, list | tuple):
            arguments.refuse(value, name, "a list, or a tuple")
        fitted = tuple(item(one, f"{name}[{at}]") for at, one in enumerate(value))
        return value if fitted == value else fitted

    return fit


def _fixed(items: list[Fit]) -> Fit:
    def fit(value: object, name: str) -> object:
        if not isinstance(value, list | tuple) or len(value) != len(items):
            arguments.refuse(value, name, f"a tuple of {len(items)} values")
        return tuple(
            item(one, f"{name}[{at}]")
            for at, (item, one) in enumerate(zip(items, value, strict=True))
        )

    return fit
