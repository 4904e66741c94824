"""The project's own strategies keep to what everybody's must: the same suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from allocpolicy.overriding import override
from allocpolicy.registry import installed
from allocpolicy.testing import StrategyConformance
from allocpolicy.testing.entrance import Given
from allocpolicy.testing.ground import Ground
from allocpolicy.testing.laws import laws
from tests.conftest import is_executed

BUNDLED = {"none", "performance", "space"}
FILESYSTEMS = ("ext4", "xfs", "btrfs", "ext2")
# Laws that take seconds on each filesystem; tox -e conformance tries them on all.
LONG = {
    "content-survives-apply",
    "content-survives-resize",
    "racers-succeed-or-are-refused",
    "a-kill-leaves-nothing",
    "a-kill-loses-nothing",
    "an-error-leaves-nothing",
    "an-error-loses-nothing",
    "no-space-loses-nothing",
}


class Everywhere(StrategyConformance):
    """On each filesystem, on those that other tests use as well."""

    @override
    def _given(self, request: pytest.FixtureRequest) -> Given:
        given = super()._given(request)
        if not is_executed(request.node):
            return given
        mount_point = request.getfixturevalue("mount_point")
        mounted = [mount_point(kind) for kind in FILESYSTEMS]
        return dataclasses.replace(given, directories=mounted)

    @override
    def _grounds(self, request: pytest.FixtureRequest) -> Sequence[Ground]:
        everywhere = request.config.getoption("--everywhere")
        law = request.node.callspec.params["law"].name
        return [
            ground
            for ground in super()._grounds(request)
            if everywhere or ground.filesystem == "xfs" or law not in LONG
        ]


def test_the_bundled_strategies_are_installed() -> None:
    """Each has its class here; an empty suite would be green."""
    tried = {
        one.strategy
        for one in globals().values()
        if isinstance(one, type) and issubclass(one, StrategyConformance)
    }
    bundled = {
        found.name
        for found in installed.find_all()
        if found.distribution == "allocpolicy"
    }
    assert bundled == BUNDLED == tried - {""}


def test_what_takes_long_is_there() -> None:
    assert {law.name for law in laws()} >= LONG


class TestNone(Everywhere):
    """A strategy that promises nothing."""

    strategy = "none"
    waived = dict.fromkeys(
        (
            "verify-notices-discards",
            "verify-notices-zeroes",
            "verify-notices-holes",
            "verify-notices-sparse-copies",
            "verify-notices-moving-blocks",
            "verify-notices-shared-blocks",
            "verify-notices-truncation",
            "verify-notices-conversion",
            "verify-notices-growth",
            "verify-notices-snapshots",
        ),
        "thin promises nothing",
    )


class TestSpace(Everywhere):
    """One that reserves."""

    strategy = "space"


class TestPerformance(Everywhere):
    """One that maps, and reserves or writes, as its options say."""

    strategy = "performance"
