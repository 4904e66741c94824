"""Labels: words of the user's about a disk, which reach its strategy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    Change,
    DiskRole,
    InvalidRequest,
    Order,
    Policy,
    apply,
    provision,
    schema,
)
from allocpolicy.images import stamp as stamps
from allocpolicy.resolve import labels
from tests.harness import plugin
from tests.harness.cli import allocpolicy

pytestmark = pytest.mark.filesystems("ext4")

# It tells what it was given, as the reason of its plans.
CODE = """
import dataclasses
from allocpolicy import *

class Telling(Strategy):
    api_version = 1
    summary = "tells its request"

    def observe(self, *, request):
        try:
            request.labels["more"] = "x"
        except TypeError:
            return {}
        return {"changed": True}

    def plan(self, *, request, facts):
        assert not facts.observed
        size = request.virtual_size
        return Plan(
            mode=Mode.STAGED, steps=(CreateRaw(virtual_size=size),), peak_bytes=0,
            promised_bytes=size, reason=said(request),
        )

    def amend(self, *, request, current, facts):
        plan = delegate("none").amend(request=request, current=current, facts=facts)
        return dataclasses.replace(plan, reason=said(request))

    def verify(self):
        return Verdict(judgement=Judgement.UNVERIFIABLE, reason="it only tells")

    def attach(self):
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="writeback", io="threads"
        )

def said(request):
    labels = sorted(request.labels.items())
    return f"<{'trial ' * request.trial}{','.join(map('='.join, labels))}>"
"""
NEW = ("--size", "1M", "--format", "raw", "--strategy", "telling")


@pytest.fixture
def telling() -> Iterator[Path]:
    """A file with a strategy that tells which labels it was given."""
    with plugin.directory() as place:
        path = place / "telling.py"
        path.write_text(CODE)
        yield path


@pytest.fixture
def flavors(tmp_path: Path) -> Path:
    path = tmp_path / "flavors.json"
    specs: Mapping[str, Any] = {"extra_specs": {"allocpolicy:strategy": "telling"}}
    path.write_text(json.dumps({"flavors": {"small": specs, "big": specs}}))
    return path


def run(*arguments: object) -> Any:
    finished = allocpolicy(*arguments, "-f", "json")
    assert finished.status == 0, finished.stderr
    return finished.document


def told(reason: str) -> str:
    return reason.partition("<")[2].partition(">")[0]


def labelled(**given: str) -> list[str]:
    return [word for one in given.items() for word in ("--label", "=".join(one))]


def recorded(disk: Path) -> object:
    document = json.loads(os.getxattr(disk, stamps.XATTR))
    assert schema.validate(document, schema=schema.load("stamp")) == []
    return document["asked"].get("labels")


def test_a_new_disk_has_those_that_are_given(directory: Path, telling: Path) -> None:
    """They reach the strategy, the report and the stamp; a plain disk has none."""
    disk = directory / "disk"
    arguments = ("provision", disk, *NEW, "--plugin", telling)
    given = labelled(tenant="acme", tier="a=b")
    dry = run(*arguments, *given, "--dry-run")
    assert told(dry["effective"]["reason"]) == "tenant=acme,tier=a=b"
    report = run(*arguments, *given)
    assert told(report["effective"]["reason"]) == "tenant=acme,tier=a=b"
    assert report["labels"] == dry["labels"] == {"tenant": "acme", "tier": "a=b"}
    assert recorded(disk) == report["stamp"]["asked"]["labels"] == report["labels"]
    assert schema.validate(report, schema=schema.load("report")) == []
    shown = run("inspect", disk, "--plugin", telling)
    assert schema.validate(shown, schema=schema.load("inspection")) == []
    assert shown["stamp"]["asked"]["labels"] == report["labels"]
    assert run("stamp", "show", disk)["asked"]["labels"] == report["labels"]
    assert "tenant=acme, tier=a=b" in allocpolicy("inspect", disk).stdout
    assert "acme" in allocpolicy("stamp", "show", disk).stdout
    plain = directory / "plain"
    report = run("provision", plain, *NEW, "--plugin", telling)
    assert (told(report["effective"]["reason"]), report["labels"]) == ("", {})
    assert recorded(plain) is None


def test_a_flavors_name_is_one_unless_another_is_given(
    directory: Path, telling: Path, flavors: Path
) -> None:
    """It is not recorded twice: another flavor brings its own."""
    of = ("--plugin", telling, "--flavors", flavors, "--flavor")
    size = ("--size", "1M", "--format", "raw")
    disk = directory / "disk"
    report = run("provision", disk, *size, *of, "small")
    assert report["labels"] == {"flavor": "small"}
    assert recorded(disk) is None
    (row,) = run("apply", disk, "--plugin", telling)
    assert told(row["reason"]) == "flavor=small"
    (row,) = run("apply", disk, *of, "big")
    assert told(row["reason"]) == "flavor=big"
    (row,) = run("apply", disk, *of, "big", *labelled(flavor="mine"))
    assert told(row["reason"]) == "flavor=mine"
    assert recorded(disk) == {"flavor": "mine"}
    rows = run("explain", *of, "big", *labelled(tenant="acme"))
    found = {row["subject"]: (row["value"], row["key"]) for row in rows}
    assert found["label flavor"] == ("big", "flavor")
    assert found["label tenant"] == ("acme", "--label")


def test_an_existing_disk_keeps_those_of_its_stamp(
    directory: Path, telling: Path
) -> None:
    """Given ones override them one by one; an empty one is removed."""
    disk = directory / "disk"
    told_by = ("--plugin", telling)
    given = labelled(tenant="acme", tier="gold")
    run("provision", disk, *NEW, *told_by, *given)

    def applied(*more: object) -> str:
        (row,) = run("apply", disk, *told_by, *more)
        return told(row["reason"])

    assert applied() == "tenant=acme,tier=gold"
    assert applied("--strategy", "telling") == "tenant=acme,tier=gold"
    assert applied("--dry-run", *labelled(tier="lead")) == "tenant=acme,tier=lead"
    assert recorded(disk) == {"tenant": "acme", "tier": "gold"}
    assert applied(*labelled(tier="lead", x="1")) == "tenant=acme,tier=lead,x=1"
    assert applied(*labelled(tier="", none="")) == "tenant=acme,x=1"
    assert recorded(disk) == {"tenant": "acme", "x": "1"}
    dry = run("resize", disk, "2M", *told_by, "--dry-run", *labelled(x="2"))
    assert dry["labels"] == {"tenant": "acme", "x": "2"}


def test_a_disk_that_conforms_is_labelled_too(directory: Path) -> None:
    disk = directory / "disk"
    run("provision", disk, "--size", "1M", "--strategy", "space")
    (row,) = run("apply", disk, *labelled(tenant="acme"))
    assert row["outcome"] == "changed"
    assert recorded(disk) == {"tenant": "acme"}


def test_stamp_set_labels_with_or_without_a_policy(directory: Path) -> None:
    disk = directory / "disk"
    run("provision", disk, "--size", "1M", *labelled(tenant="acme"))
    run("stamp", "set", disk, "--strategy", "space")
    assert recorded(disk) == {"tenant": "acme"}
    found = run("stamp", "set", disk, *labelled(tier="gold"))
    assert found["requested"]["strategy"] == "space"
    assert recorded(disk) == {"tenant": "acme", "tier": "gold"}
    run("stamp", "set", disk, *labelled(tier="", tenant=""))
    assert recorded(disk) is None
    assert allocpolicy("stamp", "set", disk).status == 2
    allocpolicy("stamp", "remove", disk)
    finished = allocpolicy("stamp", "set", disk, "--format", "qcow2", "--label", "a=b")
    assert (finished.status, finished.stdout) == (2, "")
    assert "choose its policy as well" in finished.stderr


def test_a_stamp_that_records_no_question_gets_no_labels(directory: Path) -> None:
    """What it asks for must not change by that; a policy that is given has room."""
    disk = directory / "disk"
    run("provision", disk, "--size", "1M", "--strategy", "space")
    document = json.loads(os.getxattr(disk, stamps.XATTR))
    del document["asked"]
    os.setxattr(disk, stamps.XATTR, json.dumps(document).encode())
    for arguments in (("apply", disk), ("stamp", "set", disk), ("resize", disk, "+1M")):
        finished = allocpolicy(*arguments, "--label", "a=b")
        assert finished.status == 2
        assert "choose its policy as well" in finished.stderr.splitlines()[0]
    run("apply", disk, "--strategy", "space", "--label", "a=b")
    assert recorded(disk) == {"a": "b"}


WRONG = {
    "no value": ("tenant",),
    "an empty value": ("tenant=",),
    "no name": ("=acme",),
    "a space": ("ten ant=acme",),
    "a slash": ("ten/ant=acme",),
    "a letter beyond ASCII": ("ténant=acme",),
    "a line break": ("tenant=a\nb",),
    "an escape": ("tenant=\x1b[2J",),
    "a long name": (f"{'k' * 65}=acme",),
    "a long value": (f"tenant={'v' * 256}",),
    "a very long one": (f"tenant={'v' * 100_000}",),
    "a very long name": ("k" * 100_000,),
    "too many": tuple(f"k{one}=v" for one in range(33)),
    "twice": ("tenant=acme", "tenant=acme"),
    "a stamp that is too long": tuple(f"k{one}={'v' * 255}" for one in range(20)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_be_no_label_is_refused(directory: Path, wrong: str) -> None:
    """In one line, before anything is done."""
    given = [word for one in WRONG[wrong] for word in ("--label", one)]
    disk = directory / "disk"
    finished = allocpolicy("provision", disk, "--size", "1M", *given)
    assert (finished.status, finished.stdout) == (2, "")
    assert len(finished.stderr.splitlines()) == 1
    assert "label" in finished.stderr
    assert finished.stderr.rstrip("\n").isprintable()
    assert len(finished.stderr) < 1000
    assert not disk.exists()
    run("provision", disk, "--size", "1M", "--strategy", "space")
    if wrong != "an empty value":
        assert allocpolicy("apply", disk, *given).status == 2
        assert allocpolicy("stamp", "set", disk, *given).status == 2
    assert recorded(disk) is None


def test_the_longest_are_no_mistake(directory: Path) -> None:
    given = {"k" * 64: "v" * 255, "a.B_1:c-d": "é ü=x", "flavor": "1"}
    report = run("provision", directory / "disk", "--size", "1M", *labelled(**given))
    assert report["labels"] == given == recorded(directory / "disk")


@pytest.mark.parametrize(
    "given", [{"a": ""}, {"": "b"}, {"a": 1}, {1: "a"}, {"a b": "c"}, {"a": "\0"}]
)
def test_the_python_api_refuses_the_same(
    directory: Path, given: Mapping[str, str]
) -> None:
    disk = directory / "disk"

    def made(**labelled: Mapping[str, str]) -> None:
        order = Order(destination=disk, virtual_size=1 << 20, **labelled)  # type: ignore[arg-type]
        provision(order, policy=Policy())

    with pytest.raises(InvalidRequest, match="label"):
        made(labels=given)
    made()
    if given != {"a": ""}:
        with pytest.raises(InvalidRequest, match="label"):
            apply(Change(disk=disk, labels=given), policy=Policy())


@pytest.mark.parametrize(
    "given", [[], {"a b": "c"}, {"a": 1}, {"a": ""}, {"a": "\n"}, {"a": None}]
)
def test_a_stamp_with_other_labels_is_malformed(directory: Path, given: object) -> None:
    """It is data of the disk's owner, who can write any."""
    disk = directory / "disk"
    run("provision", disk, "--size", "1M")
    document = json.loads(os.getxattr(disk, stamps.XATTR))
    document["asked"]["labels"] = given
    os.setxattr(disk, stamps.XATTR, json.dumps(document).encode())
    assert schema.validate(document, schema=schema.load("stamp")) != [] or (
        given == {"a": "\n"}  # which no pattern says
    )
    finished = allocpolicy("stamp", "show", disk)
    assert finished.status == 2
    assert "malformed" in finished.stderr


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 256])
def test_a_flavors_name_that_can_be_no_label_is_none(name: str) -> None:
    asked = stamps.Asked(flavor=name, disk=DiskRole.ROOT, extra_specs={})
    assert labels.effective(asked) == {}


def test_a_probe_is_a_trial_and_nothing_else_is(directory: Path, telling: Path) -> None:
    """A strategy that hands out what is scarce keeps it then."""
    code = CODE.replace("assert not facts.observed", "raise PlanError(said(request))")
    telling.write_text(code)
    found = run("host", "probe", directory, "--plugin", telling)
    rows = [one for one in found["strategies"] if one["strategy"] == "telling"]
    assert [told(row["error"]) for row in rows] == ["trial "] * 2
    finished = allocpolicy(
        "provision", directory / "disk", *NEW, "--plugin", telling, "--dry-run"
    )
    assert "<>" in finished.stderr
