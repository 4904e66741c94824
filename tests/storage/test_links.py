"""Links are followed on the way to a directory if root, or we, made them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.storage import links
from allocpolicy.storage.way import Distrusted


def test_a_path_without_links_is_itself(tmp_path: Path) -> None:
    assert links.resolved(tmp_path) == tmp_path


@pytest.mark.parametrize("target", ["real", "./real/../real", "{}/real"])
def test_our_own_links_are_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(target.format(tmp_path))
    found = links.resolved(tmp_path / "link" / ".." / "link" / "below")
    assert found == tmp_path / "real" / "below"


def test_a_loop_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        links.resolved(tmp_path / "a")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        links.resolved(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a link another's")
def test_a_link_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """Also one behind a link of ours."""
    (tmp_path / "real").mkdir()
    (tmp_path / "theirs").symlink_to("real")
    os.chown(tmp_path / "theirs", 65534, 65534, follow_symlinks=False)
    (tmp_path / "ours").symlink_to("theirs")
    for name in ("theirs", "ours"):
        with pytest.raises(Distrusted) as caught:
            links.resolved(tmp_path / name)
        assert caught.value.args[0] == tmp_path / "theirs"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    links.resolved(tmp_path)
    assert os.listdir("/proc/self/fd") == before
