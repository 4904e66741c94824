"""``strategy show`` and ``list``: what is installed, and what it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import plugin
from tests.harness.cli import allocpolicy

HEAD = """
from allocpolicy import *

class Own(Strategy):
    api_version = 1
    summary = "the test's"
    options_schema = {
        "type": "object",
        "properties": {"size": {"type": "integer", "default": 1}},
        "additionalProperties": False,
    }
    def plan(self, request, options):
        assert options["size"] == 1
        size = request.virtual_size
        return Plan(mode=Mode.STAGED, steps=(CreateRaw(virtual_size=size),),
                    peak_bytes=0, promised_bytes=size)
    def verify(self): ...
    def attach(self): ...
"""

Own = Callable[..., tuple[str, ...]]


@pytest.fixture
def own() -> Iterator[Own]:
    """Return a function that writes the strategy ``own``, and options that find it."""
    with plugin.directory() as place:

        def written(*members: str) -> tuple[str, ...]:
            path = place / "own.py"
            lines = [f"    {line}" for one in members for line in one.splitlines()]
            path.write_text("\n".join([HEAD, *lines]))
            return ("--plugin", str(path))

        yield written


def shown(*arguments: str) -> Any:
    finished = allocpolicy("strategy", "show", *arguments, "-f", "json")
    assert finished.status == 0, finished.stderr
    return finished.document


def served(document: Any) -> dict[str, Any]:
    return {f"{one['operation']} {one['format']}": one for one in document["serves"]}


@pytest.mark.parametrize("name", ["none", "space", "performance"])
def test_a_bundled_strategy_serves_everything(name: str) -> None:
    """But for the storage that can't do it."""
    document = shown(name)
    rows = served(document)
    assert len(rows) == 6
    assert all(one["served"] and one["reason"] is None for one in rows.values())
    assert {"ext4", "xfs", "btrfs"} <= set(rows["provision raw"]["filesystems"])
    assert ("ext2" in rows["provision raw"]["filesystems"]) is (name != "space")
    assert rows["provision qcow2"]["starts"] == ["empty", "base"]
    assert document["changes_existing"] is True
    assert (document["exclusive"], document["migrates"]) == (False, False)
    assert document["api_version"] in document["api_versions"]
    assert document["distribution"] == "allocpolicy"


def test_what_it_refuses_is_in_its_own_words() -> None:
    rows = served(shown("partial"))
    assert rows["provision qcow2"]["served"]
    assert "needs format qcow2" in rows["provision raw"]["reason"]
    text = allocpolicy("strategy", "show", "partial").stdout
    text = " ".join(text.split())
    assert "not provision, apply, resize of raw: strategy partial needs format" in text
    assert "serves provision, apply, resize of qcow2: on ext4" in text


def test_one_that_is_for_new_disks_says_so(own: Own) -> None:
    """Whether it changes existing disks is a matter of what it defines."""
    document = shown("own", *own())
    rows = served(document)
    assert document["changes_existing"] is False
    for one in ("apply raw", "resize raw", "apply qcow2", "resize qcow2"):
        assert "does not change existing disks" in rows[one]["reason"]
    assert rows["provision raw"]["starts"] == ["empty"]
    text = " ".join(allocpolicy("strategy", "show", "own", *own()).stdout.split())
    assert "serves provision of qcow2, raw: only without a base image" in text
    listed = allocpolicy("strategy", "list", *own(), "-f", "json").document
    changes = {row["name"]: row["changes_existing"] for row in listed}
    assert (changes["own"], changes["space"]) == (False, True)


def test_it_tells_which_optional_methods_there_are(own: Own) -> None:
    plugin = own("def exclusive(self): ...", "def migrate(self, options): ...")
    document = shown("own", *plugin)
    assert (document["exclusive"], document["migrates"]) == (True, True)


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ("def plan(self): return None", "plan"),
        ("def plan(self): raise KeyError('x')", "KeyError"),
        ("def observe(self): raise KeyError('x')", "observe"),
        ("def plan(self): raise Unsupported('/x', 'needs a moon')", "needs a moon"),
    ],
)
def test_a_mistake_is_what_it_answers(own: Own, member: str, says: str) -> None:
    """It is shown all the same."""
    rows = served(shown("own", *own(member)))
    assert says in rows["provision raw"]["reason"]
    assert not rows["provision raw"]["served"]


def test_one_of_a_filesystem_serves_only_that(own: Own) -> None:
    member = """
def plan(self, request, facts):
    if facts.host.filesystem.type != "btrfs":
        raise Unsupported(request.destination, "it is no btrfs")
    return Plan(mode=Mode.STAGED, steps=(CreateRaw(virtual_size=request.virtual_size),),
                peak_bytes=0, promised_bytes=request.virtual_size)
"""
    assert served(shown("own", *own(member)))["provision raw"]["filesystems"] == [
        "btrfs"
    ]


def test_a_strategy_may_look_into_the_disks_directory(own: Own) -> None:
    """It is there, though nothing is in it: a quota counts what is beside a disk."""
    plugin = own(
        "def observe(self, host):\n"
        "    return {'files': len(list(host.directory.iterdir()))}"
    )
    new = served(shown("own", *plugin))["provision raw"]
    assert new["served"], new
