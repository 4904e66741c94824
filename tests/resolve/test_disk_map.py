"""The map: what it says of which disk, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Policy, schema
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import InvalidRequest
from allocpolicy.resolve import disk_map
from allocpolicy.resolve.disk_map import DiskMap
from allocpolicy.resolve.flavors import Flavor

GOOD = {"path": "*", "format": "raw", "strategy": "space"}
FLAVORS = {
    "m1.fast": Flavor(
        name="m1.fast",
        extra_specs={"allocpolicy:strategy": "performance"},
        source=Path("flavors"),
    )
}


def read(directory: Path, *entries: object) -> DiskMap:
    file = directory / "map.json"
    file.write_text(json.dumps({"disks": entries}))
    return disk_map.read(file, policy=Policy(), flavors=FLAVORS)


def test_the_first_entry_that_matches_says_everything(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"path": "a*", "format": "qcow2", "flavor": "m1.fast", "disk": "swap"},
        {**GOOD, "options": {"reserve": "zero-fill"}, "force": True},
        {"path": "/elsewhere/**", "format": "raw", "strategy": "none"},
        {"path": "ab", "format": "raw", "strategy": "none"},
    )
    first, second = found.entry(tmp_path / "ab"), found.entry(tmp_path / "b")
    assert first is not None and second is not None
    assert (first.format, first.disk_role) == (DiskFormat.QCOW2, DiskRole.SWAP)
    assert first.choice.strategy == "performance"
    assert (second.format, second.force) == (DiskFormat.RAW, True)
    assert second.choice.options == {"reserve": "zero-fill"}
    assert found.entry(tmp_path / "below" / "b") is None
    unused = list(found.unused([tmp_path / "ab", tmp_path / "b"]))
    assert [one.partition(": no disk has it first")[0] for one in unused] == [
        f"{found.source}: disks[2] ('/elsewhere/**')",
        f"{found.source}: disks[3] ('ab')",
    ]


def test_a_directory_is_no_disk_and_that_is_told(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {**GOOD, "path": "."}).unused([])
    assert one.endswith(f"no disk has it first; {tmp_path}/** is what is in it")


def test_wildcards_are_those_of_the_pattern_and_not_of_the_maps_directory(
    tmp_path: Path,
) -> None:
    place = tmp_path / "vm [1]*"
    place.mkdir()
    found = read(place, {**GOOD, "path": "*.raw"}, {**GOOD, "path": "."})
    assert found.entry(place / "a.raw") is found.entries[0]
    (one,) = found.unused([place / "a.raw"])
    hint = one.partition("no disk has it first; ")[2].removesuffix(" is what is in it")
    assert read(place, {**GOOD, "path": hint}).entry(place / "b" / "c") is not None


WRONG = [
    ({**GOOD, "format": "qcow"}, "format: 'qcow'; allowed: qcow2, raw; did you mean"),
    ({**GOOD, "fromat": "raw"}, "fromat: no such key; "),
    ({**GOOD, "strategy": "spaec"}, "did you mean 'space'"),
    ({**GOOD, "options": {"reserv": "x"}}, "allocpolicy:space.reserv"),
    ({**GOOD, "options": {"reserve": []}}, "options.reserve: expected a string"),
    ({**GOOD, "options": []}, "options: expected an object, not "),
    ({**GOOD, "force": "yes"}, "force: expected true or false, not 'yes'"),
    ({**GOOD, "disk": "rot"}, "disk: 'rot'; allowed: root, ephemeral, swap; did you"),
    ({**GOOD, "path": "*/../a"}, "path: no .. can follow a wildcard"),
    ({**GOOD, "path": 7}, "path: expected a string, not 7"),
    ({**GOOD, "path": ""}, "path: "),
    ({"path": "*", "strategy": "none"}, "format: it is missing"),
    ({"path": "*", "format": "raw"}, "it has no policy"),
    ({"path": "*", "format": "raw", "extra_specs": {}}, "extra_specs: there are none"),
    ({"path": "*", "format": "raw", "options": {"a": 1}}, "options: "),
    ({"path": "*", "format": "raw", "flavor": "m1.fas"}, "did you mean 'm1.fast'?"),
    (
        {**GOOD, "extra_specs": {"allocpolicy:strategy": "none"}},
        "extra_specs.allocpolicy:strategy: ",
    ),
    ({**GOOD, "extra_specs": {"allocpolicy:x": 1}}, "extra_specs.allocpolicy:x: "),
    ("disk", "expected an object, with the keys path, "),
]
# What takes a directory, the installed strategies, or a file of flavors to know.
BEYOND_THE_SCHEMA: tuple[str, ...] = (
    "did you mean 'space'",
    "allocpolicy:space.reserv",
    "'m1.fast'?",
)
BEYOND_THE_SCHEMA += ("no .. can follow", "extra_specs.allocpolicy:strategy")


@pytest.mark.parametrize(("entry", "said"), WRONG)
def test_what_is_wrong_names_file_entry_and_key(
    tmp_path: Path, entry: object, said: str
) -> None:
    """And the nearest that is right. The schema refuses it, too, as far as it can."""
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, GOOD, entry)
    message = str(caught.value)
    assert message.startswith(f"map {tmp_path}/map.json: disks[1]")
    assert said in message
    assert "\n" not in message
    beyond = any(one in said for one in BEYOND_THE_SCHEMA)
    problems = schema.validate({"disks": [entry]}, schema=schema.load("map"))
    assert bool(problems) is not beyond, problems


@pytest.mark.parametrize("content", ["[]", "{}", '{"disks": []}', '{"disk": [1]}', "-"])
def test_what_is_no_map_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=r"^map .*/map\.yaml: "):
        disk_map.read(file, policy=Policy(), flavors=None)


def test_a_flavor_needs_the_file(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_text("disks: [{path: a, format: raw, flavor: m1.fast}]")
    with pytest.raises(InvalidRequest, match="--flavors"):
        disk_map.read(file, policy=Policy(), flavors=None)


def test_the_schema_has_the_keys(tmp_path: Path) -> None:
    entry = schema.load("map")["$defs"]["entry"]["properties"]
    assert set(entry) == set(disk_map.KEYS)
    assert schema.validate({"disks": [GOOD]}, schema=schema.load("map")) == []
    read(tmp_path, GOOD)
