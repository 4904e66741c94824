"""A strategy's options schema: its rules, and checking them.

It is an object schema; each property has a ``default`` and one of the types in `TYPES`.
jsonschema is imported only for more than enumerations of strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from allocpolicy import schema
from allocpolicy.schema import Invalid

TYPES = ("integer", "number", "boolean", "string", "array")
_OPTION_NAME = re.compile(r"[a-z0-9_-]+")


def check(options_schema: object) -> None:
    """Check that a strategy's options schema can convert options.

    :raises Invalid: saying in one line what is wrong.
    """
    if not isinstance(options_schema, Mapping):
        raise Invalid("options_schema is not a mapping")
    if options_schema.get("type") != "object":
        raise Invalid('options_schema is not of "type": "object"')
    properties = options_schema.get("properties")
    if not isinstance(properties, Mapping):
        raise Invalid('options_schema has no mapping "properties"')
    for name, option in properties.items():
        _check_option(name, option)
    if not _is_plain(options_schema):
        _check_with_jsonschema(options_schema)


def plain(value: object) -> object:
    """Return a copy in which every mapping is a dict, and every list is one, too."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def is_plain_option(option: Mapping[str, Any]) -> bool:
    """Return whether the option is certainly valid: an enumeration of strings."""
    words = option.get("enum", [option["default"]])
    return (
        option.keys() <= {"type", "description", "default", "enum"}
        and option["type"] == "string"
        and isinstance(option.get("description", ""), str)
        and isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and option["default"] in words
    )


def _check_option(name: object, option: object) -> None:
    if not isinstance(name, str) or not _OPTION_NAME.fullmatch(name):
        raise Invalid(f"options_schema: {name!r} does not consist of a-z, 0-9, _ and -")
    if not isinstance(option, Mapping):
        raise Invalid(f"options_schema: option {name!r} is not a mapping")
    if option.get("type") not in TYPES:
        known = ", ".join(TYPES)
        raise Invalid(f"options_schema: the type of option {name!r} is not in {known}")
    if "default" not in option:
        raise Invalid(f"options_schema: option {name!r} has no default")


def _is_plain(options_schema: Mapping[str, Any]) -> bool:
    """Return whether it is certainly valid: enumerations only, as bundled ones are."""
    return (
        options_schema.keys() <= {"type", "properties", "additionalProperties"}
        and isinstance(options_schema.get("additionalProperties", False), bool)
        and all(map(is_plain_option, options_schema["properties"].values()))
    )


def _check_with_jsonschema(options_schema: Mapping[str, Any]) -> None:
    import jsonschema

    plain = dict(options_schema)
    defaults = {name: o["default"] for name, o in plain["properties"].items()}
    try:
        jsonschema.Draft202012Validator.check_schema(plain)
        problems = schema.validate(defaults, schema=plain)
    except jsonschema.SchemaError as error:
        place = schema.place(error.path)
        raise Invalid(f"options_schema: {place}: {schema.message(error)}") from error
    except schema.Unresolvable as error:
        raise Invalid(f"options_schema: {schema.shorten(str(error))}") from error
    except re.error as error:
        reason = schema.shorten(f"{error.pattern!r} is not a regex: {error}")
        raise Invalid(f"options_schema: {reason}") from error
    if problems:
        raise Invalid(f"options_schema: the defaults are not valid: {problems[0]}")
