"""Patterns of paths, held against the standard library's and against files."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.resolve import glob
from allocpolicy.schema import Invalid

START = Path("/no-such-place")
NAMES = ("a", "b", "ab", ".a", "a.raw", "b.raw", "-")
SEGMENTS = (*NAMES, "*", "**", "?", "*.raw", "[ab]", "[!a]*", "a*", "*b")

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5).map("/".join)
patterns = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map("/".join)


def matches(pattern: str, path: str) -> bool:
    return glob.parse(pattern, start=START).matches(START / path)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.raw", "a.raw", True),
        ("*.raw", "b/a.raw", False),
        ("**/*.raw", "a.raw", True),
        ("**/*.raw", "b/c/a.raw", True),
        ("b/**", "b/c/a.raw", True),
        ("b/**/a.raw", "b/a.raw", True),
        ("b/*/a.raw", "b/a.raw", False),
        ("*", ".hidden", True),
        ("[ab].raw", "a.raw", True),
        ("[!a].raw", "a.raw", False),
        ("A.raw", "a.raw", False),
        ("./b/a.raw", "b/a.raw", True),
        ("/elsewhere/**", "a.raw", False),
        ("b", "b/a.raw", False),
    ],
)
def test_a_segment_is_a_name_and_two_stars_are_any_number(
    pattern: str, path: str, *, expected: bool
) -> None:
    assert matches(pattern, path) is expected


@pytest.mark.skipif(sys.version_info < (3, 13), reason="full_match is of Python 3.13")
@given(pattern=patterns, path=paths)
def test_it_is_what_pathlib_has_since_3_13(pattern: str, path: str) -> None:
    pure: Any = PurePosixPath(path)
    assert matches(pattern, path) is pure.full_match(pattern)


@given(pattern=patterns, path=paths)
def test_two_stars_before_and_behind_match_no_less(pattern: str, path: str) -> None:
    if matches(pattern, path):
        assert matches(f"**/{pattern}", path)
        assert matches(f"{pattern}/**", f"{path}/more")


def test_a_hostile_pattern_takes_no_time() -> None:
    """Neither many stars in a name, nor many between names."""
    assert not matches("**/" * 500 + "*a" * 100 + "b", "/".join(["a" * 200] * 100))


@pytest.mark.parametrize("pattern", ["", "a\0b", "*/../a"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid):
        glob.parse(pattern, start=START)


def test_links_before_the_first_wildcard_are_followed(tmp_path: Path) -> None:
    """As those that are named; a disk has the path without any."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to("real")
    (real / "disk").symlink_to("other")
    for pattern, path in (("link/*", "disk"), ("real/disk", "other")):
        assert glob.parse(pattern, start=tmp_path).matches(real / path)
    up = glob.parse("real/../link/*.raw", start=tmp_path)
    assert up.matches(real / "a.raw")
