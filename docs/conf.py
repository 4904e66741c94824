"""The site of the documentation: ``make docs``, or ``tox -e docs``.

Where a page has ``<!-- generated: NAME -->`` the site has what ``tools/`` writes from
the code. Nothing is fetched, and nothing is written beside the sources.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from cliff.command import Command
from cliff.sphinxext import AutoprogramCliffDirective
from sphinx.application import Sphinx

import allocpolicy
from allocpolicy.cli.main import Commands, Program

ROOT = Path(__file__).resolve().parents[1]
# Not the root, where the checkout's allocpolicy is: what is installed is described.
sys.path.insert(0, str(ROOT / "tools"))

import blocks  # noqa: E402
import coverage_page  # noqa: E402
import error_page  # noqa: E402
import reference  # noqa: E402
import schema_page  # noqa: E402
import strategy_page  # noqa: E402

project = "allocpolicy"
release = allocpolicy.__version__
extensions = [
    "myst_parser",
    "cliff.sphinxext",
    "oslo_config.sphinxext",
    "stevedore.sphinxext",
]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = f"allocpolicy {release}"
html_show_copyright = False
html_copy_source = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_ref_domains = ["std"]  # oslo.config's would search for every link
autoprogram_cliff_application = "allocpolicy"
autoprogram_cliff_ignored = ["--help"]
nitpicky = True
highlight_language = "none"
smartquotes = False  # of --thin they make a dash

GENERATED: dict[str, Callable[[], str]] = {
    "blocks": blocks.write,
    "coverage": coverage_page.write,
    "errors": error_page.write,
    "names": lambda: reference.Page(examples=reference.examples()).write(),
    "schemas": schema_page.write,
    "strategies": strategy_page.write,
}

# Files of the repository that are pages of the site, too.
ELSEWHERE = {
    "../../benchmarks/results/results.md": "/explanation/figures.md",
    **{
        f"../../plugins/{name}/README.md": f"/how-to/plugins/{name}.md"
        for name in ("example", "nova_backend", "pool")
    },
}


class Autoprogram(AutoprogramCliffDirective):
    """cliff's directive, for commands that are in a table instead of entry points."""

    def _load_app(self) -> Program | None:
        """Return the program, which is none of cliff's."""
        return Program() if self.arguments[0].endswith(".Program") else None

    def _load_commands(self) -> dict[str, type[Command]]:
        known = Commands()
        wanted = self.options.get("command", "*")
        names = [name for name in known.commands if fnmatch(name, wanted)]
        return {name: self._load_command(known, name) for name in names}

    def _drop_ignored_options(
        self, parser: argparse.ArgumentParser, ignored_opts: list[str]
    ) -> None:
        """Make of the helps what argparse would print: cliff takes them as they are."""
        super()._drop_ignored_options(parser, ignored_opts)
        formatter = parser._get_formatter()  # noqa: SLF001
        for one in parser._actions:  # noqa: SLF001
            if one.help and one.help != argparse.SUPPRESS:
                told = formatter._expand_help(one)  # noqa: SLF001
                one.help = re.sub(r"([*`|_\\])", r"\\\1", told)


def complete(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Put what is generated into a page, and lead its links to pages of the site."""
    text = re.sub(
        r"(?<=\]\()[^)#\s]+", lambda found: ELSEWHERE.get(found[0], found[0]), source[0]
    )
    source[0] = re.sub(
        r"^<!-- generated: (\w+) -->$",
        lambda found: GENERATED[found[1]](),
        text,
        flags=re.MULTILINE,
    )


def setup(app: Sphinx) -> None:
    """Register both."""
    app.add_directive("autoprogram-cliff", Autoprogram, override=True)
    app.connect("source-read", complete)
