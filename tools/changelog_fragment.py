"""Fail when behaviour changed and no fragment in changelog.d says so.

python tools/changelog_fragment.py [DIRECTORY]        the repository; default: this one

A commit that touches allocpolicy/, the bundled strategies or schemas/ is covered by

- a fragment (or CHANGELOG.md) in the same commit or in a later one;
- the trailer ``Changelog: none`` in its message, when nobody will notice it;
- the trailer ``Changelog: 7``, when the fragments of issue 7 say it already.

Commits are read from HEAD back to the newest that has a fragment, or to CHANGE_BASE
where that is set, as where a pull request is built. Where there is no history to read
(an sdist, the end of a shallow clone) a note says so. A fragment that is not committed
yet counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEHAVIOUR = ("allocpolicy/", "plugins/allocpolicy_strategies/", "schemas/")
FRAGMENTS = "changelog.d/"
CHANGELOG = "CHANGELOG.md"
FRAGMENT = re.compile(r"(?P<issue>[0-9]+)\.(feature|bugfix|removal|doc)\.md")

# A record a commit: hash, subject and trailers, then the names of its files. A merge is
# one change, compared with what it was merged into; removing a fragment adds no word.
LOG = (
    "log",
    "--first-parent",
    "-m",
    "--diff-filter=d",
    "--name-only",
    "-z",
    "--format=%x01%H%x02%s%x02%(trailers:key=Changelog,valueonly,separator=%x2C)%x02",
)


class NoHistory(Exception):
    """There is nothing to compare with; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit, and what it says of the changelog."""

    name: str
    subject: str
    trailers: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def has_fragment(self) -> bool:
        """Whether it writes what users will read."""
        return any(says_change(file) for file in self.files)

    def is_covered(self, *, issues: frozenset[str]) -> bool:
        """Return whether it needs no further word."""
        if not any(file.startswith(BEHAVIOUR) for file in self.files):
            return True
        return any(one == "none" or one in issues for one in self.trailers)


def says_change(file: str) -> bool:
    """Return whether a file is a fragment, or the changelog."""
    return file.startswith(FRAGMENTS) or file == CHANGELOG


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed.

    :raises NoHistory: when there is no git, or it refuses.
    """
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
    except FileNotFoundError as error:
        raise NoHistory("git is not installed") from error
    if done.returncode:
        raise NoHistory(done.stderr.strip().partition("\n")[0])
    return done.stdout


def history(root: Path, *, base: str | None) -> Iterator[Commit]:
    """Yield the commits after ``base`` that can be compared, the newest first.

    :raises NoHistory: when there are none.
    """
    if Path(git(root, "rev-parse", "--show-toplevel").rstrip("\n")) != root:
        raise NoHistory("this directory is not a repository of its own")
    shallow = root / git(root, "rev-parse", "--git-path", "shallow").strip()
    cut = set(shallow.read_text().split()) if shallow.exists() else set()
    for record in git(root, *LOG, f"{base}..HEAD" if base else "HEAD").split("\1")[1:]:
        name, subject, trailers, files = record.split("\2")
        if name in cut:
            print(f"not checked: {name[:9]} and before, which a shallow clone cuts off")
            return
        yield Commit(
            name=name,
            subject=subject,
            trailers=tuple(one.strip() for one in trailers.split(",")),
            files=tuple(files.strip("\0\n").split("\0")),
        )


def uncovered(root: Path, *, base: str | None) -> Sequence[Commit]:
    """Return the commits that change behaviour without a word about it."""
    if git(root, "status", "--porcelain", "--", FRAGMENTS, CHANGELOG).strip():
        return []
    issues = frozenset(
        match["issue"]
        for path in (root / FRAGMENTS).glob("*")
        if (match := FRAGMENT.fullmatch(path.name))
    )
    silent = []
    for commit in history(root, base=base):
        if commit.has_fragment:
            break
        if not commit.is_covered(issues=issues):
            silent.append(commit)
    return silent


def misnamed(root: Path) -> Sequence[str]:
    """Return the fragments that towncrier would pass over."""
    names = sorted(path.name for path in (root / FRAGMENTS).glob("[!.]*"))
    return [name for name in names if not FRAGMENT.fullmatch(name)]


def main(arguments: Sequence[str]) -> int:
    """Print what is missing; return 1 if anything is."""
    root = Path(arguments[0]).resolve() if arguments else ROOT
    if wrong := misnamed(root):
        print(f"{FRAGMENTS}{wrong[0]}: name it ISSUE.feature|bugfix|removal|doc.md")
        return 1
    try:
        silent = uncovered(root, base=os.environ.get("CHANGE_BASE") or None)
    except NoHistory as reason:
        print(f"changelog not checked: {reason}")
        return 0
    for commit in silent:
        print(f"{commit.name[:9]} {commit.subject}")
    if silent:
        print(
            f"changed behaviour without a fragment in {FRAGMENTS}: write one, or end"
            " the message of a commit\nthat nobody will notice with 'Changelog: none'"
            " (CONTRIBUTING.md, A change)"
        )
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
