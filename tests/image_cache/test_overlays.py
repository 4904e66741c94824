"""Looking for overlays: by names that others write, in directories that others own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.image_cache import overlays
from tests.harness import images

pytestmark = pytest.mark.qemu


def overlay(disk: Path, *, backing: object) -> Path:
    options = ("-u", "-b", backing, "-F", "raw")
    images.qemu_img("create", "-q", "-f", "qcow2", *options, disk, "1M")
    return disk


def test_a_name_that_leads_in_a_circle_leads_nowhere(tmp_path: Path) -> None:
    """Whoever makes such a link and such a disk hinders nobody's cache."""
    (tmp_path / "link").symlink_to("link")
    overlay(tmp_path / "disk", backing="link")
    mine = overlay(tmp_path / "mine", backing=tmp_path / "entry")
    seen = overlays.look([tmp_path])
    assert list(seen.on(tmp_path / "entry")) == [mine]
    assert overlays.backs(tmp_path / "entry", tmp_path / "disk") is False


@pytest.mark.parametrize("name", ["file:{}", "json:{{'file.filename':'{}'}}", "x:{}"])
def test_a_protocol_that_may_lead_to_an_entry_counts(tmp_path: Path, name: str) -> None:
    """It is never read as a path, but an entry that it names stays."""
    entry = tmp_path / "entry"
    disk = overlay(tmp_path / "disk", backing=name.format(entry))
    assert list(overlays.look([tmp_path]).on(entry)) == [disk]
    assert overlays.backs(entry, disk)
    assert not overlays.backs(tmp_path / "other", disk)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for disk in (tmp_path / "fifo", tmp_path / "link", Path("/dev/ptmx")):
        assert overlays.backs(tmp_path / "entry", disk) is False
