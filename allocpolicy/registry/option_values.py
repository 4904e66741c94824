"""The values of a strategy's options: strings converted, defaults filled in.

The strings of extra specs are converted to the option's type in the strategy's schema.
jsonschema is imported only when something must be validated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from allocpolicy import schema
from allocpolicy.registry import option_schema
from allocpolicy.schema import Invalid
from allocpolicy.wording import choices

# As in oslo.utils' strutils.bool_from_string(strict=True), except single letters.
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class OptionError(ValueError):
    """An option is unknown or has a bad value: ``(option, value, reason)``.

    `resolve` turns it into an ExtraSpecError, which has the key.
    """

    def __init__(self, option: str, value: str, reason: str) -> None:
        super().__init__(option, value, reason)
        self.option = option
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"option {self.option} = {self.value!r}: {self.reason}"


def convert(
    raw: Mapping[str, str], *, options_schema: Mapping[str, Any]
) -> dict[str, object]:
    """Return every option's value: ``raw`` converted to its type, or else the default.

    :raises OptionError: for an unknown option or a bad value, with what is allowed.
    """
    properties: Mapping[str, Any] = options_schema["properties"]
    for name, value in raw.items():
        if name not in properties:
            reason = f"there is no such option; {choices(properties, nearest_to=name)}"
            raise OptionError(name, value, reason)
    options: dict[str, object] = {
        name: _convert(name, raw[name], option=option)
        if name in raw
        else _fresh(option["default"])
        for name, option in properties.items()
    }
    if raw:
        _check_options(options, raw=raw, options_schema=options_schema)
    return options


def check_one(name: str, text: str, *, options_schema: Mapping[str, Any]) -> None:
    """Check the value of an option, whatever the other options are.

    :raises OptionError: for a bad value, with what is allowed.
    """
    option = options_schema["properties"][name]
    value = _convert(name, text, option=option)
    for error in schema.errors({name: value}, schema=options_schema):
        if _is_of_one(error):
            raise OptionError(name, text, _reason(error, text=text, option=option))


def _is_of_one(error: Any) -> bool:
    """Return whether what is wrong is an option's value, whatever the others are.

    What the schema says of options together is behind other words.
    """
    path = list(error.absolute_schema_path)
    while path and path[0] in ("allOf", "$ref"):  # both hold in any case
        path = path[2 if path[0] == "allOf" else 1 :]
    of_one = ("properties", "patternProperties")
    return bool(path and error.absolute_path) and path[0] in of_one


def complete(
    options: Mapping[str, object], *, options_schema: Mapping[str, Any]
) -> dict[str, object]:
    """Return every option's value: from ``options``, or else the default.

    :raises Invalid: when they do not match the schema.
    """
    properties: Mapping[str, Any] = options_schema["properties"]
    defaults = {name: _fresh(option["default"]) for name, option in properties.items()}
    complete = defaults | dict(options)
    if complete != defaults and not _is_plainly_valid(complete, properties):
        problems = schema.validate(complete, schema=options_schema)
        if problems:
            raise Invalid(problems[0])
    return complete


def _fresh(default: object) -> object:
    """Return a default that may be changed."""
    return list(default) if isinstance(default, list) else default


def _is_plainly_valid(
    options: Mapping[str, object], properties: Mapping[str, Any]
) -> bool:
    """Return whether options are certainly valid: each is in an enumeration."""
    return options.keys() <= properties.keys() and all(
        option_schema.is_plain_option(properties[name])
        and value in properties[name].get("enum", ())
        for name, value in options.items()
    )


def _check_options(
    options: Mapping[str, object],
    *,
    raw: Mapping[str, str],
    options_schema: Mapping[str, Any],
) -> None:
    for error in schema.errors(dict(options), schema=options_schema):
        at = str(error.path[0]) if error.path else ""
        name = at if at in raw else next(iter(raw))
        reason = schema.message(error)
        if at in raw:
            reason = _reason(
                error, text=raw[at], option=options_schema["properties"][at]
            )
        raise OptionError(name, raw[name], reason)


def _reason(error: Any, *, text: str, option: Mapping[str, Any]) -> str:
    """Return what is wrong with an option's value, and what is allowed."""
    if error.validator == "enum":
        words = map(_as_written, error.validator_value)
        return choices(words, nearest_to=text)
    reason = f"must be {_described(option)}"
    if error.validator not in ("type", "minimum", "maximum"):
        reason = f"{reason}: {schema.message(error)}"
    return reason


def _described(option: Mapping[str, Any]) -> str:
    """Describe the values that an option accepts, as extra specs write them."""
    if "enum" in option:
        return f"one of {', '.join(map(_as_written, option['enum']))}"
    words = {
        "integer": "an integer",
        "number": "a number",
        "boolean": f"one of {', '.join(_TRUE + _FALSE)}",
        "string": "a string",
        "array": "strings, separated by commas",
    }[option["type"]]
    if "minimum" in option:
        words += f", at least {option['minimum']}"
    if "maximum" in option:
        words += f", at most {option['maximum']}"
    return words


def _convert(name: str, text: str, *, option: Mapping[str, Any]) -> object:
    try:
        return _CONVERTERS[option["type"]](text)
    except ValueError as error:
        reason = f"must be {_described(option)}"
        raise OptionError(name, text, reason) from error


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(
        r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", text
    ):
        raise ValueError(text)
    return float(text)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _array(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if "" in words:
        raise ValueError(text)
    return words


_CONVERTERS: Mapping[str, Callable[[str], object]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": str,
    "array": _array,
}


def _as_written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
