"""Which policy a call of the API has: the operator's, unless another is meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from allocpolicy import (
    Change,
    ConfigError,
    Headroom,
    Order,
    Policy,
    apply,
    apply_all,
    audit,
    capacity,
    ensure,
    inspect,
    load_policy,
    provision,
    resize,
)
from allocpolicy.resolve.policy import in_force

SPACE = "[allocpolicy]\npreallocate_images = space\n"
COMMENTS = "[allocpolicy]\n#preallocate_images = none\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, where configurations are looked for."""
    if any(os.path.lexists(f"/etc/allocpolicy{end}") for end in ("", ".conf")):
        pytest.skip("this host has a configuration of its own")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("OS_", "AL", "SNAP")):
            monkeypatch.delenv(name)
    return tmp_path


def configured(home: Path, text: str) -> Path:
    path = home / ".allocpolicy" / "allocpolicy.conf"
    path.parent.mkdir()
    path.write_text(text)
    return path


CALLS: tuple[Callable[..., object], ...] = (
    partial(apply, Change(disk="disk", format="raw")),
    partial(apply_all, [Change(disk="disk", format="raw")]),
    partial(audit, "."),
    partial(capacity, "."),
    partial(ensure, Order(destination="new", virtual_size="1M", dry_run=True)),
    partial(inspect, "disk", format="raw"),
    partial(provision, Order(destination="new", virtual_size="1M", dry_run=True)),
    partial(resize, Change(disk="disk", format="raw", virtual_size="1M")),
)


@pytest.mark.parametrize("call", CALLS, ids=lambda one: one.func.__name__)
def test_a_policy_that_would_ignore_the_configuration_is_refused(
    call: Callable[..., object], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    path = configured(home, SPACE)
    for own in (Policy(), Policy(headroom=Headroom(ratio=0, minimum=0))):
        with pytest.raises(ConfigError) as caught:
            call(policy=own)
        assert str(path.parent) in str(caught.value)
        assert "load_policy()" in str(caught.value)


def test_it_may_be_meant() -> None:
    own = Policy(configured=False)
    assert in_force(own) is own


def test_without_a_policy_it_is_the_configured_one(home: Path) -> None:
    """And a change of it stays the operator's."""
    path = configured(home, SPACE)
    disk = home / "disk.raw"
    order = Order(destination=disk, virtual_size="1M", format="raw", dry_run=True)
    requested = provision(order).requested
    assert requested.strategy == "space"
    assert str(path) in requested.origin.source or str(path) in requested.origin.key
    roomy = replace(load_policy(), headroom=Headroom(ratio=0, minimum=0))
    assert in_force(roomy) is roomy
    assert provision(order, policy=roomy).requested.strategy == "space"


@pytest.mark.parametrize("text", ["", COMMENTS])
def test_nothing_is_ignored_where_nothing_is_set(home: Path, text: str) -> None:
    """A sample of a configuration, all comments, is one by its name only."""
    own = Policy(on_unsupported="fallback")
    assert in_force(own) is own
    configured(home, text)
    assert in_force(own) is own
    assert in_force(None) == Policy()


def test_a_policy_that_says_the_same_ignores_nothing(home: Path) -> None:
    configured(home, SPACE)
    same = replace(load_policy(), configured=None)
    assert in_force(same) is same


def test_the_environment_is_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_ALLOCPOLICY__HEADROOM_RATIO", "0.5")
    with pytest.raises(ConfigError, match="would ignore the environment"):
        in_force(Policy())


def test_a_configuration_that_is_wrong_is_told_whoever_made_the_policy(
    home: Path,
) -> None:
    configured(home, "[allocpolicy]\nheadroom_ratio = much\n")
    for own in (None, Policy()):
        with pytest.raises(ConfigError, match="headroom_ratio"):
            in_force(own)
