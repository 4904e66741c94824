"""The blocks of code in the documentation: what is done with each, to keep it true.

docs/conf.py counts them in docs/project/documentation.md; tests/docs runs them.
A block that nothing can run says why, in a comment in the line above it:
``<!-- not run: the reason -->``. Of a page with ``<!-- typed in order -->`` each block
finds what the ones before it left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *sorted(
        str(path.relative_to(ROOT))
        for pattern in ("[!.]*/README.md", "[!.]*/*/README.md")
        for path in ROOT.glob(pattern)
        if path.parts[len(ROOT.parts)] != "build"
    ),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)

IN_ORDER = tuple(
    page
    for page in PAGES
    if "<!-- typed in order -->" in (ROOT / page).read_text("utf-8")
)
# Typed in order, too, by tests/packaging/test_strategy_guide.py.
GUIDE = "docs/how-to/strategies.md"

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^>]+?) -->\n+)?"
    r"(?:^(?P<fence> *(?:`{3,}|:{3,}|~{3,}))(?P<language>[^\n`]*)\n"
    r"(?P<fenced>.*?)^(?P=fence)$"
    r"|(?<=\n\n)(?P<indented>(?:(?: {4}[^\n]*)?\n)+))",
    re.DOTALL | re.MULTILINE,
)
_PROGRAMS = (
    "allocpolicy|ansible-[a-z]+|apt-get|for|git|ls|make|openstack|pip|pytest|python3?"
    "|qemu-img|rm|tox|virsh"
)
_SHELL = re.compile(rf"\$ |({_PROGRAMS})(?![\w:])")
_CRONTAB = "# /etc/cron.d"

# What is done with a block that begins like this.
_KINDS = {
    _CRONTAB: "typed",
    r"(from|import) \w+": "run as Python",
    "- hosts:": "played by Ansible",
    "flavors:": "validated as flavors",
    "disks:": "validated as a map",
    r"\[(DEFAULT|allocpolicy)\]|# /etc/allocpolicy/": "read as configuration",
    r"allocpolicy:[\w.]+ *= \w+$": "resolved as extra specs",
}

# What begins like this is not run, because of this.
NOT_RUN = {
    "allocpolicy audit --libvirt ": "it takes libvirt; tests/libvirt has its own",
    "allocpolicy libvirt ": "tests/libvirt runs them, beside a libvirtd of its own",
    "ansible-": "tests/ansible runs Ansible's programs",
    "apt-get ": "it changes the host; bindep.txt is what make installs",
    "git ": "it changes the checkout",
    "ln -s /opt/allocpolicy/": "it changes the host; tests/packaging has the wheel",
    "make ": "make test runs this test; the demo has a test of its own",
    "openstack ": "it takes a cloud; tests/nova asks Nova's own validators",
    "/opt/allocpolicy/bin/python -m pip install ": "tests/packaging installs the wheel",
    "pip ": "tests/packaging installs the wheel",
    "pytest ": "this test is part of a run of pytest",
    "python -m pip install ": "tests/packaging installs the wheel",
    "python3 -m venv ": "tests/packaging installs the wheel",
    "virsh ": "tests/libvirtd has a libvirtd of its own",
    "tox ": "tox runs this test; the benchmarks take an hour",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and what a page shows of what it prints."""

    lines: tuple[str, ...]  # as they are typed, behind the prompt if there is one
    shown: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command, without its prompts."""
        return "\n".join(re.sub(r"^[$>] ", "", line) for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code, fenced or indented."""

    page: str
    language: str  # what a fence says; empty of an indented block
    lines: tuple[str, ...]  # without their margin
    margin: int  # spaces that each line has on the page
    why_not: str | None  # why nothing runs it, as the page says
    span: tuple[int, int]  # where its text is in the page

    @property
    def kind(self) -> str:
        """What is done with it; empty: nothing, and it doesn't say why."""
        if self.language.startswith("{"):
            return "built by Sphinx"
        if self.why_not:
            return "not run"
        if self.page == GUIDE:
            return "typed in order"
        return self._content

    @property
    def because(self) -> str:
        """Why it is not run."""
        return self.why_not or reason_not_to_run(self.steps[0].command) or ""

    @property
    def _content(self) -> str:
        first = self.lines[0]
        if self.language in {"console", "shell"} or _SHELL.match(first):
            return self._typed
        if self.page in IN_ORDER:
            return "typed in order" if self.language.startswith("python") else ""
        if self.language == "python":
            return "run as Python"
        found = (kind for begin, kind in _KINDS.items() if re.match(begin, first))
        return next(found, "")

    @property
    def _typed(self) -> str:
        """What is done with what is typed into a shell."""
        if not self.commands:
            return "run elsewhere"
        if self.shows and len(self.commands) < len(self.steps):
            return ""  # what it shows of the others is nobody's
        return "typed in order" if self.page in IN_ORDER else "typed"

    @property
    def shows(self) -> bool:
        """Whether it shows what its commands print."""
        return self.lines[0].startswith("$ ")

    @property
    def commands(self) -> list[str]:
        """Its commands that can be run: not what they print, nor a crontab's times."""
        typed = (step.command for step in self.steps)
        return [one for one in typed if reason_not_to_run(one) is None]

    @property
    def steps(self) -> list[Step]:
        """What is typed, one command after the other."""
        if self.shows:
            return [*_shown(self.lines)]
        joined = "\n".join(self.lines).replace("\\\n", " ").split("\n")
        if joined[0].startswith(_CRONTAB):
            joined = [re.sub(r"^[\d* ]+ root ", "", one) for one in joined[1:]]
            # whoever types has a PATH; debian/tests/audit has that of the crontab
            joined = [one for one in joined if not one.startswith("PATH=")]
        said = [one for one in joined if one and not one.startswith("#")]
        return [Step(lines=(one,), shown=()) for one in said]


def _shown(lines: Sequence[str]) -> Iterator[Step]:
    """Yield the commands behind the prompts, each with what it prints."""
    rest = list(lines)
    while rest:
        typed = [rest.pop(0)]
        while rest and (typed[-1].endswith("\\") or rest[0].startswith("> ")):
            typed.append(rest.pop(0))
        shown = [*takewhile(lambda line: not line.startswith("$ "), rest)]
        del rest[: len(shown)]
        yield Step(lines=tuple(typed), shown=tuple(shown))


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        name = "fenced" if match["fence"] else "indented"
        lines = match[name].strip("\n").split("\n")
        margin = min((len(x) - len(x.lstrip()) for x in lines if x), default=0)
        if any(lines):
            yield Block(
                page=page,
                language=match["language"] or "",
                lines=tuple(line[margin:] for line in lines),
                margin=margin,
                why_not=match["why"],
                span=match.span(name),
            )


def rewrite(block: Block, printed: Sequence[Sequence[str]]) -> None:
    """Put what its commands print into a block's page, in place of what it shows."""
    margin = " " * block.margin
    lines = [
        line
        for step, answer in zip(block.steps, printed, strict=True)
        for line in (*step.lines, *answer)
    ]
    new = "".join(f"{margin}{line}".rstrip() + "\n" for line in lines)
    path = ROOT / block.page
    text = path.read_text(encoding="utf-8")
    now = next(one for one in blocks(block.page) if one.lines == block.lines)
    begin, end = now.span
    after = text[begin:end].removesuffix("\n")
    new += "\n" * (len(after) - len(after.rstrip("\n")))
    path.write_text(text[:begin] + new + text[end:], encoding="utf-8")


def every_block() -> list[Block]:
    """Return all blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def reason_not_to_run(command: str) -> str | None:
    """Return why a command is not run here."""
    found = (why for start, why in NOT_RUN.items() if command.startswith(start))
    return next(found, None)


def write() -> str:
    """Return how many blocks there are of each kind, and those that nothing runs."""
    found = every_block()
    lines = ["| what is done with a block | blocks |", "|---|---|"]
    counted = Counter(one.kind for one in found)
    lines += [f"| {kind} | {count} |" for kind, count in counted.most_common()]
    lines += ["", "| not run, on the page | begins | because |", "|---|---|---|"]
    lines += [
        f"| {one.page} | `{one.lines[0].strip()[:40]}` | {one.because} |"
        for one in found
        if one.kind in {"not run", "run elsewhere"}
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(write())
