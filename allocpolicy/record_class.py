"""How a class becomes a record: by functions that were compiled with this module.

The standard library writes and compiles six functions for each class, 0.3 to 1 ms of
every start of a process, and a command needs a hundred classes. Here a class gets
closures. `dataclasses.fields`, ``replace``, ``asdict`` and ``is_dataclass`` work on
records all the same: what they need is made when they ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

_MISSING: Any = object()
_MARK = "__dataclass_fields__"  # by which the standard library knows a dataclass
_put = object.__setattr__

Fields = Mapping[str, "Field"]


class Field:
    """What a class says of one of its fields, with the standard library's words."""

    __slots__ = ("annotation", "compare", "default", "default_factory", "repr")

    annotation: object

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        repr: bool = True,
        compare: bool = True,
    ) -> None:
        self.default = default
        self.default_factory = default_factory
        self.repr = repr
        self.compare = compare

    def standard(self) -> Any:
        """Return it as a field of the standard library's."""
        import dataclasses

        given = {"default": self.default, "default_factory": self.default_factory}
        given = {name: one for name, one in given.items() if one is not _MISSING}
        return dataclasses.field(repr=self.repr, compare=self.compare, **given)


field = Field  # called as the function of the standard library is


def dataclass(
    *, frozen: bool, kw_only: bool, slots: bool = False, eq: bool = True
) -> Callable[[type], type]:
    """Return what makes a class a record."""
    if not (frozen and kw_only):
        raise TypeError("a record is frozen, and its fields are given by keyword")

    def decorated(cls: type) -> type:
        own = _declared(cls)
        fields: dict[str, Field] = {}
        for above in cls.__mro__[-2:0:-1]:
            fields.update(of(above) or {})
        fields.update(own)
        added = _functions(cls, fields, eq=eq, slots=slots)
        added[_MARK] = _Mark(fields, eq=eq)
        return _slotted(cls, own, added) if slots else _completed(cls, own, added)

    return decorated


def of(cls: type) -> Fields | None:
    """Return the fields of a record's class; None for any other class."""
    mark = _mark(cls)
    return mark.fields if isinstance(mark, _Mark) else None


def names(cls: type) -> tuple[str, ...]:
    """Return the names of all fields, also those that a plugin's own dataclass adds."""
    fields = of(cls)
    if fields is not None:
        return tuple(fields)
    import dataclasses

    return tuple(one.name for one in dataclasses.fields(cls))


def declaring(cls: type) -> type:
    """Return the class that is the record: of one that adds nothing, the one above."""
    return next((one for one in cls.__mro__ if _MARK in one.__dict__), cls)


def _mark(cls: type) -> Any:
    """Return the nearest mark as it is: a plugin's own class has the standard one."""
    return declaring(cls).__dict__.get(_MARK)


class _Mark:
    """The fields; the standard library gets its own, made when it asks."""

    __slots__ = ("_alike", "_eq", "fields")

    def __init__(self, fields: Fields, *, eq: bool) -> None:
        self.fields = fields
        self._eq = eq
        self._alike: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        return self.alike().__dataclass_fields__

    def alike(self) -> Any:
        """Return a dataclass of the standard library's with the same fields."""
        import dataclasses

        if self._alike is None:
            fields = self.fields.items()
            self._alike = dataclasses.make_dataclass(
                "Alike",
                [(name, one.annotation, one.standard()) for name, one in fields],
                eq=self._eq,
                frozen=True,
                kw_only=True,
            )
        return self._alike


class _Asked:
    """Something else that the standard decorator sets, made when it is asked for."""

    __slots__ = ("_of",)

    def __init__(self, of: Callable[[type], object]) -> None:
        self._of = of

    def __get__(self, instance: object, owner: type) -> object:
        return self._of(_mark(owner).alike())


def _signature(cls: type) -> object:
    import inspect

    return inspect.signature(cls)


def _declared(cls: type) -> dict[str, Field]:
    """Return the fields that the class itself declares, in their order."""
    declared = {}
    said = cls.__dict__
    for name, annotation in cls.__annotations__.items():
        if str(annotation).startswith(("ClassVar", "typing.ClassVar")):
            continue
        value = said.get(name, _MISSING)
        one = value if isinstance(value, Field) else Field(default=value)
        if type(one.default).__hash__ is None:
            raise ValueError(f"field {name}: use default_factory for a mutable default")
        one.annotation = annotation
        declared[name] = one
    return declared


def _slotted(cls: type, own: Fields, added: Mapping[str, Any]) -> type:
    """Return the class once more: slots are made with a class."""
    namespace = {**cls.__dict__, **added}
    for name in (*own, "__dict__", "__weakref__"):
        namespace.pop(name, None)
    namespace["__slots__"] = tuple(own)
    namespace["__qualname__"] = cls.__qualname__
    return type(cls)(cls.__name__, cls.__bases__, namespace)


def _completed(cls: type, own: Fields, added: Mapping[str, Any]) -> type:
    for name, one in own.items():
        if one.default is not _MISSING:
            setattr(cls, name, one.default)
        elif name in cls.__dict__:
            delattr(cls, name)
    for name, one in added.items():
        setattr(cls, name, one)
    return cls


def _functions(cls: type, fields: Fields, *, eq: bool, slots: bool) -> dict[str, Any]:
    """Return what the class gets; what it defines itself, it keeps."""
    made: dict[str, Any] = {
        **_OF_ALL,
        "__init__": _initializer(cls, fields),
        "__repr__": _representation(fields),
    }
    if eq:
        made["__eq__"], made["__hash__"] = _comparison(fields)
    if slots:  # which pickle can't set, the record being frozen
        made["__getstate__"], made["__setstate__"] = _get_state, _set_state
    return {name: one for name, one in made.items() if name not in cls.__dict__}


def _initializer(cls: type, fields: Fields) -> Callable[..., None]:
    names, wanted = tuple(fields), fields.keys()
    defaults = {
        name: one.default for name, one in fields.items() if one.default is not _MISSING
    }
    has_more = hasattr(cls, "__post_init__")

    def __init__(self: Any, /, **values: object) -> None:  # noqa: N807
        values = defaults | values
        if values.keys() != wanted:
            _complete(values, fields, called=__init__.__qualname__)
        for name in names:
            _put(self, name, values[name])
        if has_more:
            self.__post_init__()

    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


def _complete(values: dict[str, object], fields: Fields, *, called: str) -> None:
    """Add what is to be made, or refuse as a call of a function does."""
    unknown = next((name for name in values if name not in fields), None)
    if unknown is not None:
        raise TypeError(f"{called}() got an unexpected keyword argument {unknown!r}")
    left = {name: one for name, one in fields.items() if name not in values}
    missing = [name for name, one in left.items() if one.default_factory is _MISSING]
    if missing:
        *others, last = map(repr, missing)
        comma = "," if len(others) > 1 else ""
        listed = f"s: {', '.join(others)}{comma} and {last}" if others else f": {last}"
        count = len(missing)
        raise TypeError(
            f"{called}() missing {count} required keyword-only argument{listed}"
        )
    values.update((name, one.default_factory()) for name, one in left.items())


def _representation(fields: Fields) -> Callable[[object], str]:
    def __repr__(self: object) -> str:  # noqa: N807
        shown = (name for name, one in fields.items() if one.repr)
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({values})"

    return __repr__


def _comparison(fields: Fields) -> tuple[Callable[..., object], Callable[..., int]]:
    compared = _values([name for name, one in fields.items() if one.compare])

    def __eq__(self: object, other: object) -> object:  # noqa: N807
        if other.__class__ is self.__class__:
            return compared(self) == compared(other)
        return NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(compared(self))

    return __eq__, __hash__


def _values(names: list[str]) -> Callable[[object], tuple[object, ...]]:
    """Return what makes a tuple of these attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _set(self: object, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    _put(self, name, value)


def _delete(self: object, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(record: object, name: str, what: str) -> None:
    """Let only what a subclass adds that is no record be changed."""
    cls = type(record)
    if _MARK in cls.__dict__ or name in (of(cls) or ()):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


def _get_state(self: object) -> list[object]:
    return [getattr(self, name) for name in names(type(self))]


def _set_state(self: object, state: list[object]) -> None:
    for name, value in zip(names(type(self)), state, strict=True):
        _put(self, name, value)


def _replaced(self: Any, /, **changes: object) -> Any:
    kept = {
        name: getattr(self, name) for name in names(type(self)) if name not in changes
    }
    return type(self)(**kept, **changes)


_OF_ALL = {
    "__dataclass_params__": _Asked(attrgetter("__dataclass_params__")),
    "__delattr__": _delete,
    "__match_args__": (),
    "__replace__": _replaced,  # which `copy.replace` calls
    "__setattr__": _set,
    "__signature__": _Asked(_signature),
}
