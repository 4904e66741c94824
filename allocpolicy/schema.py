"""JSON Schemas (draft 2020-12): the packaged ones, and checking data against them.

jsonschema is imported only when something must be validated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

SCHEMAS = "allocpolicy_schemas"


_MESSAGE_LIMIT = 200


class Invalid(ValueError):
    """Data violates its schema: one line, to which the caller adds context."""


class Unresolvable(ValueError):
    """A schema refers to something that isn't in it."""


def load(name: str) -> dict[str, Any]:
    """Return the packaged schema ``name``, such as ``flavors``."""
    from importlib import import_module

    loaded: dict[str, Any] = import_module(SCHEMAS).load(name)
    return loaded


def validate(instance: object, *, schema: Mapping[str, object]) -> list[str]:
    """Return what is wrong with ``instance``, one line each with its JSON path."""
    found = sorted(errors(instance, schema=schema), key=lambda e: place(e.path))
    return [f"{place(error.path)}: {message(error)}" for error in found]


def errors(instance: object, *, schema: Mapping[str, object]) -> Iterator[Any]:
    """Yield jsonschema's errors of ``instance``; no ``$ref`` makes it fetch anything.

    :raises Unresolvable: when a ``$ref`` leads out of the schema, while it is iterated.
    """
    import jsonschema

    plain = dict(schema)
    referencing: Any = getattr(jsonschema.validators, "referencing", None)
    if referencing is None:  # before jsonschema 4.18
        kept: dict[str, Any] = {"resolver": _resolver(plain)}
        lost: Any = jsonschema.RefResolutionError
    else:
        kept = {"registry": referencing.Registry()}
        lost = referencing.exceptions.Unresolvable
    validator = jsonschema.Draft202012Validator(plain, **kept)
    try:
        yield from validator.iter_errors(instance)
    except lost as error:
        raise Unresolvable(str(error)) from error


def _resolver(schema: Mapping[str, object]) -> object:
    """Return what resolves references as jsonschema did, but for those to elsewhere."""
    import jsonschema

    class Resolver(jsonschema.RefResolver):
        """Never opens a URL; the built-in one does for each that it doesn't know."""

        def resolve_remote(self, uri: str) -> NoReturn:
            raise jsonschema.RefResolutionError(f"Unresolvable: {uri}")

    return Resolver.from_schema(schema)


def place(path: Iterable[str | int]) -> str:
    """Return a JSON path (RFC 9535)."""
    text = "$"
    for part in path:
        if isinstance(part, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part):
            text += f".{part}"
        else:
            text += f"[{part!r}]"
    return text


def message(error: Any) -> str:
    """Return an error of jsonschema's as one short line."""
    text: str = error.message
    if error.validator == "type" and error.validator_value == "string":
        value = json.dumps(error.instance, default=str)
        text = f"{shorten(value)} is not a string: put it in quotes"
    return shorten(text)


def shorten(text: str) -> str:
    """Return the text in one line, shortened if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LIMIT else f"{line[:_MESSAGE_LIMIT]} …"
