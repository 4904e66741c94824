"""What counts as a block of the documentation, and what is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.tool import load

if TYPE_CHECKING:
    from tools import blocks
else:
    blocks = load("blocks")

SESSION = """\
Text, and a list:

- an item

  ```console
  $ allocpolicy audit \\
      /srv/vm
  old
  $ true
  ```

    allocpolicy host probe /srv/vm

~~~
who knows
~~~

<!-- not run: nobody can -->

    a drawing

```{toctree}
page
```
"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(blocks, "ROOT", tmp_path)
    found = tmp_path / "page.md"
    found.write_text(SESSION)
    return found


@pytest.mark.usefixtures("page")
def test_every_kind_of_block_is_found() -> None:
    """Fenced and indented, in a list or not; one that nobody knows has no kind."""
    kinds = [one.kind for one in blocks.blocks("page.md")]
    assert kinds == ["typed", "typed", "", "not run", "built by Sphinx"]


@pytest.mark.usefixtures("page")
def test_a_session_is_commands_and_what_they_print() -> None:
    session = next(blocks.blocks("page.md"))
    assert [one.command for one in session.steps] == [
        "allocpolicy audit \\\n    /srv/vm",
        "true",
    ]
    assert [one.shown for one in session.steps] == [("old",), ()]


def test_only_what_is_printed_is_rewritten(page: Path) -> None:
    session = next(blocks.blocks("page.md"))
    blocks.rewrite(session, [["new", "and more"], []])
    assert page.read_text() == SESSION.replace("  old\n", "  new\n  and more\n")


def test_what_is_not_run_may_not_stand_among_what_is_shown(page: Path) -> None:
    """Nobody would compare what it prints."""
    page.write_text("Text:\n\n    $ make docs\n    $ allocpolicy --version\n    1.0\n")
    assert [one.kind for one in blocks.blocks("page.md")] == [""]
