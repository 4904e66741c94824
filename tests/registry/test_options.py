"""JSON Schemas, and options converted by them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy import schema
from allocpolicy.registry import option_schema, option_values

OPTIONS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "data": {"type": "string", "enum": ["sparse", "full"], "default": "sparse"},
        "depth": {"type": "integer", "minimum": 1, "maximum": 8, "default": 2},
        "share": {"type": "number", "minimum": 0, "default": 0.5},
        "sync": {"type": "boolean", "default": True},
        "pools": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[a-z]*$"},
            "default": [],
        },
    },
}

DEFAULTS = {"data": "sparse", "depth": 2, "share": 0.5, "sync": True, "pools": []}


def convert(**raw: str) -> dict[str, object]:
    return option_values.convert(raw, options_schema=OPTIONS)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("data", "full", "full"),
        ("depth", "8", 8),
        ("depth", "+3", 3),
        ("share", "1e1", 10.0),
        ("share", "3", 3.0),
        ("sync", "OFF", False),
        ("sync", "1", True),
        ("pools", "a, b,c", ["a", "b", "c"]),
        ("pools", "", []),
    ],
)
def test_strings_become_what_the_schema_says(
    option: str, text: str, value: object
) -> None:
    """An option has its type, and the others their defaults."""
    assert convert(**{option: text}) == DEFAULTS | {option: value}


def test_one_value_is_checked_whatever_the_others_are() -> None:
    """What the schema says of options together is no rule of one of them."""
    together = {"if": {"properties": {"depth": {"const": 8}}}, "then": False}
    schema = OPTIONS | {"required": ["data"]} | together
    option_values.check_one("depth", "8", options_schema=schema)
    with pytest.raises(option_values.OptionError, match="at most 8"):
        option_values.check_one("depth", "9", options_schema=schema)
    with pytest.raises(option_values.OptionError, match="did you mean 'full'"):
        option_values.check_one("data", "fulll", options_schema=schema)


@pytest.mark.parametrize(
    "together",
    [
        {"anyOf": [{"properties": {"depth": {"const": 1}}}]},
        {"if": True, "then": {"properties": {"depth": {"const": 1}}}},
        {"dependentSchemas": {"depth": {"properties": {"depth": {"const": 1}}}}},
        {"allOf": [{"anyOf": [{"properties": {"depth": {"const": 1}}}]}]},
        {"minProperties": 5},
    ],
    ids=str,
)
def test_what_may_depend_on_others_is_no_rule_of_one(
    together: dict[str, object],
) -> None:
    option_values.check_one("depth", "8", options_schema=OPTIONS | together)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"patternProperties": {"^dep": {"maximum": 5}}},
        {"allOf": [True, {"properties": {"depth": {"maximum": 5}}}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"depth": {"const": 2}}}}},
    ],
    ids=str,
)
def test_one_value_is_checked_by_all_that_holds_in_any_case(
    elsewhere: dict[str, object],
) -> None:
    schema = OPTIONS | elsewhere
    option_values.check_one("depth", "2", options_schema=schema)
    option_values.check_one("data", "full", options_schema=schema)
    with pytest.raises(option_values.OptionError, match="depth"):
        option_values.check_one("depth", "8", options_schema=schema)


@pytest.mark.parametrize(
    ("option", "text", "allowed"),
    [
        ("data", "sprase", "allowed: sparse, full; did you mean 'sparse'?"),
        ("depth", "9", "must be an integer, at least 1, at most 8"),
        ("depth", "1_0", "must be an integer, at least 1, at most 8"),
        ("depth", "9" * 5000, "must be an integer"),
        ("depth", "", "must be an integer"),
        ("share", "nan", "must be a number, at least 0"),
        ("share", "-1", "must be a number, at least 0"),
        ("sync", "maybe", "must be one of true, yes, on, 1, false, no, off, 0"),
        ("pools", "a,,b", "must be strings, separated by commas"),
        ("pools", "A", "'A' does not match"),
        ("dta", "full", "did you mean 'data'?"),
    ],
)
def test_bad_value_is_told_what_is_allowed(
    option: str, text: str, allowed: str
) -> None:
    """A refusal names the option, the value and what is allowed."""
    with pytest.raises(option_values.OptionError) as raised:
        convert(**{option: text})
    assert (raised.value.option, raised.value.value) == (option, text)
    assert allowed in raised.value.reason


@given(st.dictionaries(st.sampled_from([*DEFAULTS, "x"]), st.text()))
def test_conversion_converts_or_refuses(raw: dict[str, str]) -> None:
    """Whatever is written: valid options, all of them, or an OptionError."""
    refused = None
    options: dict[str, object] = DEFAULTS
    try:
        options = option_values.convert(raw, options_schema=OPTIONS)
    except option_values.OptionError as error:
        refused = error
    assert options.keys() == DEFAULTS.keys()
    assert schema.validate(options, schema=OPTIONS) == []
    if refused:
        assert refused.option in raw
        assert "\n" not in refused.reason


def test_defaults_are_not_shared() -> None:
    """A strategy that changes its options doesn't change the next disk's."""
    pools = convert()["pools"]
    assert isinstance(pools, list)
    pools.append("x")
    assert convert() == DEFAULTS


def test_rule_over_several_options_is_told_of_a_given_one() -> None:
    """A rule that isn't of one option still names a key that was written."""
    exclusive = {**OPTIONS, "not": {"properties": {"depth": {"const": 8}}}}
    with pytest.raises(option_values.OptionError) as raised:
        option_values.convert({"depth": "8"}, options_schema=exclusive)
    assert raised.value.option == "depth"


def test_usable_schemas_pass() -> None:
    """Every supported type may be used."""
    option_schema.check(OPTIONS)
    option_schema.check({"type": "object", "properties": {}})


def options_schema(option: object, **more: object) -> object:
    return {"type": "object", "properties": {"x": option}, **more}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (None, "not a mapping"),
        ({"type": "array"}, "object"),
        ({"type": "object"}, "properties"),
        ({"type": "object", "properties": {"X.y": {}}}, "does not consist of"),
        (options_schema("string"), "not a mapping"),
        (options_schema({"default": 1}), "type"),
        (options_schema({"type": "null", "default": None}), "type"),
        (options_schema({"type": "string"}), "no default"),
        (options_schema({"type": "string", "default": 1}), "defaults are not valid"),
        (options_schema({"type": "string", "default": "", "enum": "a"}), "array"),
        (options_schema({"type": "string", "default": "", "pattern": "("}), "("),
        (options_schema({"type": "integer", "default": 1, "minimum": "a"}), "minimum"),
        (options_schema({"type": "string", "default": ""}, required="x"), "required"),
        (options_schema({"type": "string", "default": "", "$ref": "http://x/"}), "x"),
    ],
)
def test_unusable_schemas_are_refused(wrong: object, why: str) -> None:
    """What a strategy calls its schema must be one, with defaults that keep to it."""
    with pytest.raises(schema.Invalid) as raised:
        option_schema.check(wrong)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_problems_have_their_place() -> None:
    """A problem is one line that begins with the JSON path."""
    problems = schema.validate(
        {"flavors": {"m1.x": {"extra_specs": {"a:b": True}}, "b": 1}},
        schema=schema.load("flavors"),
    )
    assert problems == [
        "$.flavors.b: 1 is not of type 'object'",
        "$.flavors['m1.x'].extra_specs['a:b']: true is not a string: put it in quotes",
    ]


def test_problem_stays_short() -> None:
    """What is wrong isn't printed whole."""
    (problem,) = schema.validate(["x" * 10_000], schema={"type": "object"})
    assert len(problem) < 300


def test_every_packaged_property_is_described() -> None:
    """A reader of a schema learns what each property means."""

    def undescribed(node: object) -> list[object]:
        if not isinstance(node, dict):
            return []
        own = [p for p in node.get("properties", {}).values() if "description" not in p]
        return own + [one for child in node.values() for one in undescribed(child)]

    assert undescribed(schema.load("flavors")) == []


def test_jsonschema_is_imported_only_to_validate() -> None:
    """Defaults, and the schemas of bundled strategies, don't cost its import."""
    plain = options_schema({"type": "string", "enum": ["a"], "default": "a"})
    program = (
        "import sys, json\n"
        "from allocpolicy.registry import option_schema, option_values\n"
        f"plain = json.loads({json.dumps(plain)!r})\n"
        "option_schema.check(plain)\n"
        "assert option_values.convert({}, options_schema=plain) == {'x': 'a'}\n"
        "sys.exit('jsonschema' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
