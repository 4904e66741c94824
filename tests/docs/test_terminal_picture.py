"""The README's terminal shows the session that a test types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.harness.tool import load

if TYPE_CHECKING:
    from tools import terminal_picture
else:
    load("blocks")
    terminal_picture = load("terminal_picture")


def test_the_picture_shows_the_session() -> None:
    """It is drawn anew by: make docs."""
    session = [re.sub(r"\s", "", line) for line in terminal_picture.session()]
    assert terminal_picture.drawn(terminal_picture.PICTURE.read_text()) == session


def test_a_drawn_line_is_found_again() -> None:
    """Whatever the version of rich: what is compared is what is seen."""
    lines = ["$ allocpolicy audit <&> /srv/vm", "drifted  40G  web1.qcow2"]
    found = terminal_picture.drawn(terminal_picture.draw(lines))
    assert found == ["$allocpolicyaudit<&>/srv/vm", "drifted40Gweb1.qcow2"]


def test_the_picture_fetches_nothing() -> None:
    svg = terminal_picture.draw(["$ true"])
    assert not re.search(r"url\(.?(https?:|//)|@import|<image", svg)
