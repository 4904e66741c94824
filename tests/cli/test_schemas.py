"""What each command prints for programs is what its schema says.

Of `strategy check`, and of the commands about domains, their own tests hold it so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from allocpolicy import schema
from allocpolicy.cli.main import COMMANDS
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB
from tests.harness.schemas import OF_COMMANDS, SCHEMAS, validated

# What is read, what is recorded on disks, and what is logged.
OF_NO_COMMAND = {"batch_order", "change", "flavors", "map"}

FLAVORS = """\
flavors:
  m1.fast:
    extra_specs: {allocpolicy:strategy: performance, strategy: none}
    sizes: {root: 2M, swap: 0}
  wrong: {extra_specs: {allocpolicy:strategy: spaec}}
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Give a directory with disks, a flavors file and a filled cache."""
    provision(tmp_path / "disk", "--size", "1M", "--strategy", "none")
    (tmp_path / "disks").mkdir()
    provision(tmp_path / "disks" / "a", "--size", "1M", "--strategy", "space")
    (tmp_path / "disks" / "unstamped.raw").write_bytes(bytes(MIB))
    (tmp_path / "flavors.yaml").write_text(FLAVORS)
    return tmp_path


def check(name: str, *arguments: object, status: int = 0) -> Any:
    """Run a command with arguments, and hold it against its schema."""
    words = name.partition(" --")[0].split()
    finished = allocpolicy(*words, *arguments, "-f", "json")
    assert finished.status == status, finished.stderr
    return validated(finished, command=name)


def test_every_command_has_a_schema_that_is_there() -> None:
    assert {name.partition(" --")[0] for name in OF_COMMANDS} == {*COMMANDS}
    assert {*OF_COMMANDS.values()} | OF_NO_COMMAND == {*SCHEMAS.names()}


@pytest.mark.parametrize("name", SCHEMAS.names())
def test_a_schema_is_one(name: str) -> None:
    """Of the draft that it names, for itself, with nothing that isn't told."""
    found = SCHEMAS.load(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    references = [one["$ref"] for one in parts(found) if "$ref" in one]
    assert all(one.startswith("#/") for one in references)


@pytest.mark.parametrize("name", sorted({*OF_COMMANDS.values()}))
def test_what_is_printed_has_names_in_one_style_and_no_others(name: str) -> None:
    for one in parts(SCHEMAS.load(name)):
        for key in one.get("properties", {}):
            assert re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", key), key
        if "properties" in one:
            assert one.get("additionalProperties") is False, one


def parts(of: object) -> Iterator[dict[str, Any]]:
    """Yield a schema, and every schema inside."""
    if isinstance(of, dict):
        yield of
    values = of.values() if isinstance(of, dict) else of
    for one in values if isinstance(values, list | type({}.values())) else ():
        yield from parts(one)


def test_apply(host: Path) -> None:
    """Also of what was skipped, planned, refused and done."""
    path = host / "disks"
    check("apply", path, "--strategy", "performance", "--dry-run")
    rows = check("apply", path, host / "gone", status=2)
    assert {row["outcome"] for row in rows} >= {"unchanged", "skipped", "failed"}
    (row,) = check("apply", path / "a", "--strategy", "performance")
    assert row["outcome"] == "changed"


def test_audit(host: Path) -> None:
    check("audit", host, "--all")


def test_bench(host: Path) -> None:
    """Also of a file that is in no VM, for which most isn't measured."""
    layouts = ("--layout", "performance", "--layout", "file, no VM")
    small = ("--quick", "--size", "8M", "--no-guest", "--yes", *layouts)
    ours, outside = check("bench", host, *small)
    assert ours["recommended"] and ours["by_io"]["threads"]["first"] > 0
    assert outside["dd_rate"] > 0 and outside["by_io"] == {}


def test_cache(tmp_path: Path) -> None:
    base = tmp_path / "base.vpc"
    images.qemu_img("create", "-q", "-f", "vpc", base, "1M")
    options = ("--size", "2M", "--base", base, "--base-format", "vpc")
    provision(tmp_path / "disk", *options, "--strategy", "none")
    assert check("cache list", tmp_path)
    check("inspect --base-format", base, "--base-format", "vpc")
    check("cache prune", tmp_path)
    (tmp_path / "disk").unlink()
    check("cache prune", tmp_path, "--dry-run")
    check("cache prune", tmp_path)


def test_explain(host: Path) -> None:
    flavor = ("--flavors", host / "flavors.yaml", "--flavor", "m1.fast")
    check("explain", *flavor, "--extra-spec", "allocpolicy:strategy.swap=none")
    check("explain", "--strategy", "none", "--label", "tenant=acme")


def test_flavor_validate(host: Path) -> None:
    check("flavor validate", host / "flavors.yaml", status=2)


def test_host(host: Path) -> None:
    check("host capacity", host / "disks", "--disks")
    check("host probe", host)


def test_inspect(host: Path) -> None:
    """What has no stamp is told apart by its role, and can be looked at as a disk."""
    assert "role" not in check("inspect", host / "disk")
    unstamped = host / "disks" / "unstamped.raw"
    finished = allocpolicy("inspect", unstamped, "-f", "json")
    assert validated(finished, command="inspect --base-format")["role"]
    for more in ((), ("--strategy", "none")):
        check("inspect", unstamped, "--disk-format", "raw", *more)


def test_provision_resize_and_ensure(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    sized = (disk, "--size", "1M", "--label", "tenant=acme")
    check("provision", *sized, "--dry-run")
    check("provision", *sized, "--strategy", "space")
    check("resize", disk, "2M", "--dry-run")
    check("resize", disk, "2M")
    check("resize", disk, "2M")
    for size in ("2M", "3M"):
        check("ensure", disk, "--size", size, "--strategy", "performance")


def test_provision_batch(tmp_path: Path) -> None:
    """Each line, of a disk that was made and of one that wasn't."""
    orders: list[dict[str, object]] = [
        {"disk": str(tmp_path / "disk"), "size": "1M", "mode": "0640"},
        {"disk": str(tmp_path / "disk"), "size": 1 << 20, "role": None},
    ]
    wanted = schema.load("batch_order")
    assert [schema.validate(one, schema=wanted) for one in orders] == [[], []]
    file = tmp_path / "orders"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in orders) + "no\n")
    finished = allocpolicy("provision", "--batch", file, "--jobs", 2)
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    found = schema.load(OF_COMMANDS["provision --batch"])
    assert [schema.validate(one, schema=found) for one in results] == [[], [], []]
    assert schema.validate(results[0]["report"], schema=schema.load("report")) == []
    assert [one["exit_status"] for one in results] == [0, 2, 2]


def test_stamp(host: Path) -> None:
    disk = host / "disk"
    for name in ("stamp show", "stamp remove"):
        check(name, disk)
    check("stamp set", disk, "--strategy", "space", "--disk-format", "qcow2")
    (host / "map").write_text(
        "disks: [{path: disks/*.raw, format: raw, strategy: none}]"
    )
    for more in ((), ("--dry-run",)):
        check("stamp all", host / "disks", "--map", host / "map", *more)


def test_strategy(tmp_path: Path) -> None:
    check("strategy list")
    for name in ("none", "performance", "space"):
        check("strategy show", name)
    check("strategy new", "my-own", tmp_path / "new")


def test_the_hook(tmp_path: Path) -> None:
    place = ("--hooks-directory", tmp_path)
    check("libvirt status", *place, status=1)
    check("libvirt install-hook", *place)
    for _ in range(2):
        check("libvirt uninstall-hook", *place)


def test_what_nova_reads(tmp_path: Path) -> None:
    finished = allocpolicy("nova", "provider-config", tmp_path)
    found = schema.load(OF_COMMANDS["nova provider-config"])
    assert schema.validate(yaml.safe_load(finished.stdout), schema=found) == []
