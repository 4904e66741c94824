"""The script that asks a change of behaviour for a word to users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "changelog_fragment.py"
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "a"), ("EMAIL", "a@b"))
}
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    **AUTHOR,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
CODE, FRAGMENT = "allocpolicy/a.py", "changelog.d/7.bugfix.md"


class Repository:
    """A repository whose every commit writes files anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")
        self.commit("README.md", CODE, "changelog.d/6.feature.md")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            check=True,
            cwd=self.path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def write(self, *names: str) -> None:
        for name in names:
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as stream:
                stream.write("once more\n")

    def commit(self, *names: str, message: str = "a change") -> str:
        self.write(*names)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def check(root: Path, *, base: str = "") -> tuple[int, str]:
    """Run the script and return its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, SCRIPT, root],
        capture_output=True,
        check=False,
        env={**ENVIRONMENT, "CHANGE_BASE": base},
        text=True,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "file",
    [CODE, "plugins/allocpolicy_strategies/space/plans.py", "schemas/report.json"],
)
def test_behaviour_without_a_fragment_is_named(
    repository: Repository, file: str
) -> None:
    """The commits are listed, as that is where the word has to be found."""
    name = repository.commit(file, message="area: better")
    status, printed = check(repository.path)
    assert (status, printed.splitlines()[0]) == (1, f"{name[:9]} area: better")


@pytest.mark.parametrize("file", ["README.md", "tests/test_a.py", "plugins/example/a"])
def test_what_users_do_not_run_needs_no_fragment(
    repository: Repository, file: str
) -> None:
    """Tests, documentation and examples change freely."""
    repository.commit(file)
    assert check(repository.path) == (0, "")


@pytest.mark.parametrize("word", [FRAGMENT, "CHANGELOG.md"])
def test_a_word_covers_what_came_before_it(repository: Repository, word: str) -> None:
    """A fragment is the last commit of a change, or part of one; not more than that."""
    repository.commit(CODE)
    repository.commit(word)
    assert check(repository.path) == (0, "")
    repository.commit(CODE)
    assert check(repository.path)[0] == 1


def test_a_fragment_counts_before_it_is_committed(repository: Repository) -> None:
    """Who runs the matrix before the last commit isn't told what is done already."""
    repository.commit(CODE)
    repository.write(FRAGMENT)
    assert check(repository.path) == (0, "")


def test_removing_a_fragment_says_nothing(repository: Repository) -> None:
    """A change can't be covered by taking a word back."""
    repository.git("rm", "-q", "changelog.d/6.feature.md")
    repository.commit(CODE)
    assert check(repository.path)[0] == 1


@pytest.mark.parametrize(
    ("trailer", "status"), [("none", 0), ("6", 0), ("7", 1), ("nothing", 1)]
)
def test_a_trailer_answers_for_its_commit(
    repository: Repository, trailer: str, status: int
) -> None:
    """It says that nobody will notice, or which issue's fragments say it already."""
    repository.commit(CODE, message=f"a change\n\nMoved.\n\nChangelog: {trailer}")
    assert check(repository.path)[0] == status


def test_a_merge_is_one_change(repository: Repository) -> None:
    """A branch may have its fragment anywhere."""
    repository.git("switch", "-q", "-c", "branch")
    repository.commit(FRAGMENT)
    repository.commit(CODE)
    repository.git("switch", "-q", "main")
    repository.commit("README.md")
    repository.git("merge", "-q", "--no-edit", "branch")
    assert check(repository.path) == (0, "")


def test_a_base_limits_what_is_compared(repository: Repository) -> None:
    """A pull request answers for its own commits."""
    base = repository.commit(CODE)
    repository.commit("README.md")
    assert check(repository.path, base=base) == (0, "")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_shallow_clone_is_checked_as_far_as_it_goes(
    repository: Repository, tmp_path: Path, depth: int
) -> None:
    """Its oldest commit seems to add every file, the fragments too."""
    repository.commit(CODE)
    repository.commit(CODE)
    clone = tmp_path / "clone"
    url = repository.path.as_uri()
    repository.git("clone", "-q", f"--depth={depth}", url, str(clone))
    status, printed = check(clone)
    assert "shallow clone" in printed
    assert status == depth - 1


def test_an_sdist_has_no_history(tmp_path: Path, repository: Repository) -> None:
    """Nor has one that was unpacked inside somebody else's repository."""
    for place in (tmp_path, repository.path):
        sdist = place / "sdist"
        sdist.mkdir()
        status, printed = check(sdist)
        assert (status, "changelog not checked" in printed) == (0, True)


def test_a_misnamed_fragment_is_an_error(repository: Repository) -> None:
    """Its words would never be read: towncrier passes over it."""
    repository.commit(CODE, "changelog.d/7.fix.md")
    assert check(repository.path)[0] == 1
