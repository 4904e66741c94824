"""Strategies in a file of Python: as if they were installed, while they are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allocpolicy import DuplicateStrategy, InvalidRequest, StrategyFailed
from allocpolicy.registry import installed, plugin_file
from tests.harness import filesystems, ordinary_user, plugin
from tests.harness.cli import allocpolicy, command, environment

CODE = """
import dataclasses, sys
from allocpolicy import *

print("noise")

@dataclasses.dataclass(kw_only=True)
class Size:  # which looks for its module
    size: int = 0

class Thin(Strategy):
    api_version = 1
    summary = "thin, in a file"

    def plan(self, *, request, facts):
        steps = (CreateRaw(virtual_size=request.virtual_size),)
        return Plan(
            mode=Mode.STAGED, steps=steps, peak_bytes=0,
            promised_bytes=request.virtual_size,
        )

    def verify(self, *, observation):
        return Verdict(judgement=Judgement.MEETS, reason="so it says")

    def attach(self):
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="writeback", io="threads"
        )
"""
MORE = """
class Shared(Thin):
    def described(self): ...

class HTTPPool2Thin(Thin):
    name = "pool"

class OfItsOwn(Strategy):
    api_version = 1
    summary = "x"
    def attach(self): ...
    def verify(self): ...

class InTheEnd(OfItsOwn):
    def plan(self): ...
"""

Write = Callable[..., Path]


@pytest.fixture
def trusted() -> Iterator[Path]:
    with plugin.directory() as directory:
        yield directory


@pytest.fixture
def write(trusted: Path) -> Write:
    """Write a file of Python where it is trusted."""

    def write(code: str = CODE, *, name: str = "quota.py") -> Path:
        path = trusted / name
        path.write_text(code)
        return path

    return write


def found_in(*paths: Path) -> dict[str, str]:
    """Return the names of the strategies in the files, and where each is from."""
    before = installed.find_all()
    with plugin_file.registered(paths):
        found = {one.name: str(one) for one in installed.find_all()}
    assert installed.find_all() == before
    return {name: said for name, said in found.items() if " file (" in said}


def test_its_strategies_are_found_by_their_names(write: Write) -> None:
    """What it imports is not its own, and a base class of its own is no strategy."""
    assert found_in(write(CODE + MORE)) == {
        "thin": "quota.py file (quota:Thin)",
        "shared": "quota.py file (quota:Shared)",
        "pool": "quota.py file (quota:HTTPPool2Thin)",
        "in-the-end": "quota.py file (quota:InTheEnd)",
    }


def test_a_name_of_words_is_made_of_capitals(write: Write) -> None:
    code = f"{CODE}\nclass HTTPPool2Thin(Thin): ..."
    assert "http-pool2-thin" in found_in(write(code))


def test_its_module_takes_nobodys_place(write: Write) -> None:
    """Neither a loaded module's nor an installed one's; nothing stays behind."""
    json = sys.modules["json"]
    files = [write(name=name) for name in ("json.py", "this.py", "1-a b.py")]
    for path in files:
        with plugin_file.registered([path]):
            assert installed.load("thin").summary == "thin, in a file"
            assert sys.modules["json"] is json
    assert "this" not in sys.modules
    assert {*files} == {*files[0].parent.iterdir()}, "no bytecode was written"


def test_two_files_may_be_named_alike(trusted: Path, write: Write) -> None:
    (trusted / "other").mkdir()
    paths = [write(), write(CODE.replace("Thin", "Lean"), name="other/quota.py")]
    with plugin_file.registered(paths):
        assert type(installed.load("thin").strategy).__name__ == "Thin"
        assert type(installed.load("lean").strategy).__name__ == "Lean"


def test_a_name_that_is_installed_is_refused_as_a_duplicate(write: Write) -> None:
    with plugin_file.registered([write(CODE.replace("Thin", "Space"))]):
        with pytest.raises(DuplicateStrategy, match=r"quota.py file \(quota:Space\)"):
            installed.load("space")
        assert installed.load("none").found.name == "none"
    assert installed.load("space").found.distribution == "allocpolicy"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class Thin(", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit"),
        ("\0", "SyntaxError"),
        ("from allocpolicy import Strategy", "no subclass of allocpolicy.Strategy"),
    ],
)
def test_a_file_that_is_no_plugin_is_named_in_one_line(
    write: Write, code: str, says: str
) -> None:
    path = write(code)
    with pytest.raises(StrategyFailed, match=says) as raised:
        found_in(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert "quota" not in sys.modules


@pytest.mark.parametrize("what", ["missing", "directory", "fifo", "loop"])
def test_what_is_no_file_is_refused(trusted: Path, what: str) -> None:
    path = trusted / what
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
    with pytest.raises(InvalidRequest, match=str(path)):
        found_in(path)


@pytest.mark.parametrize("link", ["to-quota.py", "here/to-quota.py"])
def test_links_are_followed(trusted: Path, write: Write, link: str) -> None:
    write()
    (trusted / "here").symlink_to(".")
    (trusted / "to-quota.py").symlink_to(trusted / "here" / "quota.py")
    assert "thin" in found_in(trusted / link)


class TestAsRoot:
    """What somebody else could have made or changed is not run."""

    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        if os.geteuid() != 0:
            raise filesystems.Unavailable("it matters to root only")

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir="/run") as name:
            os.chmod(name, 0o1777)  # as /tmp
            yield Path(name)

    def refused(self, path: Path, *, at: Path) -> None:
        with pytest.raises(InvalidRequest) as raised:
            found_in(path)
        said = str(raised.value)
        assert said.startswith(f"plugin {path}: {at}: ")
        assert "in a directory such as /root" in said
        assert len(said.splitlines()) == 1

    def test_a_file_that_others_own_or_may_write_to(self, write: Write) -> None:
        path = write()
        for mode in (0o660, 0o602):
            path.chmod(mode)
            self.refused(path, at=path)
        path.chmod(0o600)
        assert found_in(path)
        os.chown(path, ordinary_user.UID, -1)
        self.refused(path, at=path)

    def test_a_directory_that_others_own_or_may_write_to(
        self, trusted: Path, write: Write
    ) -> None:
        above = trusted / "above"
        (above / "below").mkdir(parents=True)
        path = write(name="above/below/quota.py")
        assert found_in(path)
        above.chmod(0o770)
        self.refused(path, at=above)
        above.chmod(0o700)
        os.chown(above, ordinary_user.UID, -1)
        self.refused(path, at=above)

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_link_that_anybody_may_have_made(
        self, public: Path, write: Write, link: Callable[[Path, Path], None]
    ) -> None:
        """It would have root run another file of root's than was meant."""
        link(write(), public / "quota.py")
        self.refused(public / "quota.py", at=public)

    def test_a_way_through_a_directory_of_others(
        self, trusted: Path, public: Path, write: Write
    ) -> None:
        path = write()
        (public / "way").symlink_to(trusted)
        self.refused(public / "way" / path.name, at=public)
        (trusted / "way").symlink_to(public / ".." / trusted.name)
        self.refused(trusted / "way" / path.name, at=public)

    def test_an_ordinary_user_may_try_any(self) -> None:
        with ordinary_user.public_directory() as directory:
            path = directory / "quota.py"
            path.write_text(CODE)
            path.chmod(0o666)
            shown = command("strategy", "show", "thin", "--plugin", path)
            finished = subprocess.run(
                ordinary_user.command(*shown),
                capture_output=True,
                check=False,
                env=environment(),
                text=True,
            )
            assert finished.returncode == 0, finished.stderr


class TestTheOption:
    """``--plugin``, before a command's name or after it."""

    def test_a_disk_is_made_and_audited(self, write: Write, tmp_path: Path) -> None:
        plugin, disks = write(), [tmp_path / str(one) for one in range(40)]
        for disk in disks:
            finished = allocpolicy(
                *("provision", disk, "--size", "1M", "--format", "raw"),
                *("--plugin", plugin, "--strategy", "thin", "-f", "json"),
            )
            assert finished.status == 0, finished.stderr
            assert finished.stderr == "noise\n"
            if disk is disks[0]:
                wrote = finished.document["stamp"]["effective"]
                assert (wrote["distribution"], wrote["version"]) == ("quota.py", "file")
        audit = ("audit", tmp_path, "--jobs", "2", "-f", "json")
        found = allocpolicy("--plugin", plugin, *audit)
        assert [row["reason"] for row in found.document] == ["so it says"] * len(disks)
        unknown = allocpolicy(*audit).document
        assert {row["verdict"] for row in unknown} == {"unverifiable"}

    def test_several_are_listed_with_what_is_installed(self, write: Write) -> None:
        lean = write(CODE.replace("Thin", "Lean"), name="lean.py")
        finished = allocpolicy(
            *("--plugin", lean, "strategy", "list", "--plugin", write(), "-f", "json")
        )
        rows = {row["name"]: row["distribution"] for row in finished.document}
        assert (rows["thin"], rows["lean"]) == ("quota.py", "lean.py")
        assert rows["space"] == "allocpolicy"

    @pytest.mark.parametrize(("code", "status"), [("1 / 0", 5), (None, 2)])
    def test_one_that_fails_is_one_line(
        self, trusted: Path, write: Write, code: str | None, status: int
    ) -> None:
        path = trusted / "none.py" if code is None else write(code)
        finished = allocpolicy("explain", "--plugin", path)
        assert (finished.status, finished.stdout) == (status, "")
        assert len(finished.stderr.splitlines()) == 1
        assert str(path) in finished.stderr
