"""The project's own strategies keep to what everybody's must: the same suite."""

from __future__ import annotations

import dataclasses

import pytest

from allocpolicy.overriding import override
from allocpolicy.registry import installed
from allocpolicy.testing import StrategyConformance
from allocpolicy.testing.entrance import Given
from tests.conftest import is_executed

BUNDLED = {"none", "performance", "space"}
FILESYSTEMS = ("ext4", "xfs", "btrfs", "ext2")


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


class TestNone(Everywhere):
    """A strategy that promises nothing."""

    strategy = "none"


class TestSpace(Everywhere):
    """One that reserves."""

    strategy = "space"


class TestPerformance(Everywhere):
    """One that maps, and reserves or writes, as its options say."""

    strategy = "performance"
