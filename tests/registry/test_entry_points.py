"""The entry points that are found are those of `importlib.metadata`."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.registry import entry_points

GROUP = "some.group"
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n"


def write(
    site: Path, stem: str, *, suffix: str, lines: Sequence[str], metadata: str
) -> None:
    """Write a distribution's directory as an installer does."""
    directory = site / f"{stem}{suffix}"
    directory.mkdir(exist_ok=True)
    named = "METADATA" if suffix == ".dist-info" else "PKG-INFO"
    (directory / named).write_text(metadata)
    (directory / "entry_points.txt").write_text("\n".join(lines))


def found() -> list[tuple[str, ...]]:
    return sorted(map(astuple, entry_points.of_group(GROUP)))


def expected() -> list[tuple[str, ...]]:
    return sorted(
        (one.name, one.value, one.dist.name, one.dist.version)
        for one in importlib.metadata.entry_points(group=GROUP)
        if one.dist is not None
    )


STEMS = st.sampled_from(
    ["acme-1.0", "acme-2.0", "Acme-1.0", "a_cme-1", "a.cme-1", "acme", "b", "b-1-2"]
)
LINES = st.lists(
    st.sampled_from(
        [
            f"[{GROUP}]",
            "[another]",
            "# a comment",
            "",
            "  brisk = acme:Good  ",
            "calm=acme",
            "x = y = z",
            "odd name = acme.sub : Good.one [extra]",
        ]
    ),
    max_size=6,
)
PARTS = st.lists(
    st.tuples(
        st.integers(0, 1), STEMS, st.sampled_from([".dist-info", ".egg-info"]), LINES
    ),
    max_size=6,
)


@given(parts=PARTS)
def test_of_several_distributions_those_are_found_that_python_finds(
    parts: list[tuple[int, str, str, list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    top = tmp_path_factory.mktemp("site")
    places = [top / "0", top / "1"]
    for place in places:
        place.mkdir()
    for number, (where, stem, suffix, lines) in enumerate(parts):
        metadata = METADATA.format(name=stem.partition("-")[0], version=number)
        write(
            places[where],
            stem,
            suffix=suffix,
            lines=[f"[{GROUP}]", *lines],
            metadata=metadata,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*map(str, places), "/no/such/place"])
        importlib.invalidate_caches()
        assert found() == expected()


@pytest.mark.parametrize("group", ["console_scripts", "pytest11", "oslo.config.opts"])
def test_of_what_is_installed_the_same_is_found(group: str) -> None:
    ours = sorted(map(astuple, entry_points.of_group(group)))
    theirs = importlib.metadata.entry_points(group=group)
    assert [one[:2] for one in ours] == sorted((one.name, one.value) for one in theirs)
    assert ours


def test_a_distribution_in_a_zip_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("a-1.dist-info/METADATA", METADATA.format(name="a", version=1))
        file.writestr("a-1.dist-info/entry_points.txt", f"[{GROUP}]\nx = y:Z\n")
    monkeypatch.syspath_prepend(str(tmp_path / "all.zip"))
    assert found() == expected() == [("x", "y:Z", "a", "1")]
    importlib.invalidate_caches()
    gc.collect()  # importlib.metadata closes the file now, not amid another test


def test_a_distribution_in_an_egg_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    egg = tmp_path / "a-1-py3.11.egg" / "EGG-INFO"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text(METADATA.format(name="a", version=1))
    (egg / "entry_points.txt").write_text(f"[{GROUP}]\nx = y:Z\n")
    monkeypatch.syspath_prepend(str(egg.parent))
    assert found() == expected() == [("x", "y:Z", "a", "1")]


def test_an_import_hook_with_distributions_of_its_own_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        "hooked-1",
        suffix=".dist-info",
        lines=[f"[{GROUP}]", "x = y:Z"],
        metadata=METADATA.format(name="hooked", version=1),
    )

    class Finder:
        def find_spec(self, *_: object) -> None:
            return None

        def find_distributions(
            self, *_: object
        ) -> list[importlib.metadata.Distribution]:
            return [importlib.metadata.Distribution.at(tmp_path / "hooked-1.dist-info")]

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert found() == expected() == [("x", "y:Z", "hooked", "1")]


def test_what_a_stranger_left_unreadable_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that no installer wrote, of a distribution that has nothing for us."""
    (tmp_path / "odd-1.dist-info").mkdir()
    (tmp_path / "odd-1.dist-info" / "entry_points.txt").write_bytes(b"[x]\n\xff\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert found() == []
