"""An option that oslo.config would find is never missed; others cost nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from allocpolicy import ConfigError
from allocpolicy.resolve import config, config_mention

OPTION = "libvirt_default"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("OS_", "AL"))]:
        monkeypatch.delenv(name)
    return tmp_path


def test_where_nothing_is_nothing_is_mentioned() -> None:
    assert not config_mention.mentioned(OPTION)


@pytest.mark.parametrize(
    "place",
    [
        "allocpolicy.conf",
        "allocpolicy.conf.d/a.conf",
        ".allocpolicy/allocpolicy.conf",
        ".allocpolicy/allocpolicy.conf.d/a.conf",
    ],
)
def test_a_file_that_has_the_word_is_found(home: Path, place: str) -> None:
    path = home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[allocpolicy]\n# libvirt_default = space\n;libvirt_default = x\n")
    assert not config_mention.mentioned(OPTION)
    path.write_text("[allocpolicy]\nlibvirt_default = space\n")
    assert config_mention.mentioned(OPTION)


@pytest.mark.parametrize("word", ["libvirt-default", "LIBVIRT_DEFAULT"])
def test_another_spelling_is_left_to_those_who_read_it(home: Path, word: str) -> None:
    """They refuse it; unread it would leave all domains without a policy, silently."""
    (home / "allocpolicy.conf").write_text(f"[allocpolicy]\n{word} = space\n")
    assert config_mention.mentioned(OPTION)
    with pytest.raises(ConfigError, match=f"{word}.* there is no such option"):
        config.policy(config.load())


def test_a_file_that_is_no_text_is_named(home: Path) -> None:
    (home / "allocpolicy.conf").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=re.escape(str(home / "allocpolicy.conf"))):
        config.load()


def test_what_cannot_be_searched_is_left_to_those_who_read_it(home: Path) -> None:
    (home / "allocpolicy.conf").symlink_to("allocpolicy.conf")
    assert config_mention.mentioned(OPTION)


def test_a_variable_is_left_to_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_ALLOCPOLICY__LIBVIRT_DEFAULT", "space")
    assert config_mention.mentioned(OPTION)
