"""Flavors files: ours and OpenStack's, and every way to get them wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.errors import FlavorError
from allocpolicy.resolve import flavors, strict_file

Write = Callable[..., Path]

OWN = {
    "flavors": {
        "m1.fast": {
            "description": "databases",
            "extra_specs": {"allocpolicy:strategy": "performance"},
        },
        "m1.tiny": {},
    }
}

YAML = """\
flavors:
  m1.fast:
    description: databases
    extra_specs:
      allocpolicy:strategy: performance
  m1.tiny: {}
"""

OPENSTACK = [
    {
        "ID": "42",
        "Name": "m1.fast",
        "RAM": 512,
        "Disk": 40,
        "Ephemeral": 0,
        "VCPUs": 1,
        "Is Public": True,
        "Swap": 0,
        "RXTX Factor": 1.0,
        "Description": None,
        "Properties": {"allocpolicy:strategy": "performance"},
    },
    {"ID": 43, "Name": "m1.tiny", "Properties": None},
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: object, *, name: str = "flavors.json") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(FlavorError) as raised:
        flavors.load_flavors(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("name", ["flavors.json", "flavors.yaml", "flavors"])
@pytest.mark.parametrize("content", [OWN, YAML, json.dumps(OWN, indent=1)])
def test_own_format(write: Write, content: object, name: str) -> None:
    """YAML and JSON are told apart by their content."""
    path = write(content, name=name)
    loaded = flavors.load_flavors(path)
    assert list(loaded) == ["m1.fast", "m1.tiny"]
    assert loaded["m1.fast"].extra_specs == {"allocpolicy:strategy": "performance"}
    assert loaded["m1.tiny"].extra_specs == {}
    assert str(loaded["m1.fast"]) == f"flavor m1.fast in {path}"


def test_openstack_flavor_list(write: Write) -> None:
    """What openstack prints is read unchanged."""
    loaded = flavors.load_flavors(write(OPENSTACK))
    assert list(loaded) == ["m1.fast", "m1.tiny"]
    assert loaded["m1.fast"].extra_specs == {"allocpolicy:strategy": "performance"}
    assert loaded["m1.tiny"].extra_specs == {}


@pytest.mark.parametrize(
    ("text", "extra_specs"),
    [
        ("", {}),
        ("a:b='c'", {"a:b": "c"}),
        ("a:b='c', d='e=f, g'", {"a:b": "c", "d": "e=f, g"}),
        ("a='it's', b=''", {"a": "it's", "b": ""}),
    ],
)
def test_openstack_properties_as_text(
    write: Write, text: str, extra_specs: dict[str, str]
) -> None:
    """Older clients print properties as k='v', k='v'."""
    path = write([{"Name": "m", "Properties": text}])
    assert flavors.load_flavors(path)["m"].extra_specs == extra_specs


PLAIN = st.text(alphabet=st.characters(blacklist_characters="'=,"), min_size=1)


@given(st.dictionaries(PLAIN.map(str.strip).filter(bool), PLAIN))
def test_text_properties_round_trip(extra_specs: dict[str, str]) -> None:
    """What osc_lib's format_dict prints is read back."""
    text = ", ".join(f"{key}='{value}'" for key, value in extra_specs.items())
    row = {"Name": "m", "Properties": text}
    read = flavors._openstack_flavor(row, path=Path("f"))
    assert read.extra_specs == extra_specs


def test_flavor_by_name_and_id(write: Write) -> None:
    """A flavor is found by its name, or else by its ID."""
    path = write(OPENSTACK)
    assert flavors.flavor(path, name="m1.fast").id == "42"
    assert flavors.flavor(path, name="43").name == "m1.tiny"
    with pytest.raises(FlavorError, match=r"did you mean 'm1\.fast'\?"):
        flavors.flavor(path, name="m1.fats")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('{"flavors": {\n  "a": }}', "line 2, column 8"),
        ('{"flavors": {"a": {}, "a": {}}}', "'a' appears twice"),
        ('{"flavors": ' + "9" * 5000 + "}", "digits"),
        ('{"flavors": []}', "$.flavors: [] is not of type 'object'"),
        ('{"flavors": {"a": {"extra_specs": {"k": 1}}}}', "1 is not a string"),
        ('{"flavors": {"a": {"specs": {}}}}', "$.flavors.a: "),
        ('{"flavor": {}}', "$: "),
        ("flavors:\n  a: [\n", "line 3, column 1"),
        (
            "flavors:\n  a: {}\n  a: {}\n",
            "line 3, column 3: not valid YAML: the key 'a'",
        ),
        ("flavors:\n  1: {}\n", "line 2, column 3"),
        ("flavors:\n  a: {extra_specs: {b:c: true}}", "put it in quotes"),
        ("flavors:\n  a: {extra_specs: {b: 2026-01-01}}", "put it in quotes"),
        ("a: &a [x]\nflavors: *a\n", "line 2, column 10: not valid YAML: aliases"),
        ("flavors: !!python/object:os.system {}", "line 1, column 10"),
        ("--- {}\n--- {}\n", "line 2"),
        ("just words", "$: 'just words' is not of type 'object'"),
        ("null", "$: None is not of type 'object'"),
        ("  \n", "empty"),
        (b"", "empty"),
        (b"\x00\x01\x02", "not valid YAML"),
        (b"\x7fELF\x02\xff\xfe", "not UTF-8 text (at byte 5)"),
        ("[" * 100_000, "nested too deeply"),
        ("- " * 50_000 + "x", "nested too deeply"),
        (b" " * (strict_file.SIZE_LIMIT + 1), "larger than"),
        ([1], '$[0]: not an object with a "Name"'),
        ([{"Name": "a"}], "--long"),
        ([{"Name": "a", "Properties": 1}], "$[0]: Properties"),
        ([{"Name": "a", "Properties": {"k": 1}}], "'k' is not a string"),
        ([{"Name": "a", "Properties": "k=v"}], "expected k='v'"),
        ([{"Name": "a", "Properties": ""}] * 2, "$[1]: a second flavor 'a'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    write: Write, content: object, where: str
) -> None:
    """A file that isn't valid is refused in one line that says where."""
    assert where in refusal(write(content))


def test_json_syntax_in_a_yaml_file(write: Write) -> None:
    """A YAML file may begin with a brace."""
    path = write("{flavors: {a: {}}}", name="flavors.yaml")
    assert list(flavors.load_flavors(path)) == ["a"]


def test_byte_order_mark(write: Write) -> None:
    """Windows editors write one."""
    assert flavors.load_flavors(write(b"\xef\xbb\xbf" + json.dumps(OWN).encode()))


def test_unreadable_files(tmp_path: Path) -> None:
    """What cannot be read is refused with the reason, /dev/zero after the limit."""
    assert "No such file" in refusal(tmp_path / "gone")
    assert "directory" in refusal(tmp_path)
    assert "larger than" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize(
    "value", ["2024-99-99", '!!bool "x"', '!!int "x"', "9" * 5000, "!!float x"]
)
def test_a_value_that_is_none_of_its_type_is_a_wrong_file(
    tmp_path: Path, value: str
) -> None:
    """PyYAML raises ValueError and KeyError of its own for these."""
    path = tmp_path / "flavors.yaml"
    path.write_text(
        f"flavors:\n  m1:\n    description: {value}\n    extra_specs: {{}}\n"
    )
    with pytest.raises(FlavorError):
        flavors.load_flavors(path)
