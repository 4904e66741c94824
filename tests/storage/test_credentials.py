"""Reading with another user's rights: exactly his, and afterwards our own again."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.storage import credentials, libc
from tests.harness import filesystems, ordinary_user

pytestmark = pytest.mark.system
GROUP = 54321
NOBODY = credentials.User(uid=ordinary_user.UID, gid=ordinary_user.UID, name="nobody")
MEMBER = credentials.User(uid=12345, gid=1, groups=(GROUP,), name="member")
OWNER = credentials.User(uid=12346, gid=1, name="owner")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory that everybody may search."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being two users takes root")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


def may_read(path: Path, one: credentials.User) -> bool:
    try:
        with credentials.acting_as(one):
            os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(
    ("mode", "readers"),
    [
        (0o600, (OWNER,)),
        (0o640, (OWNER, MEMBER)),
        (0o644, (OWNER, MEMBER, NOBODY)),
        (0o040, (MEMBER,)),
        (0o604, (OWNER, NOBODY)),
        (0o000, ()),
    ],
)
def test_the_kernel_decides(
    directory: Path, mode: int, readers: tuple[credentials.User, ...]
) -> None:
    """Neither of them is given the rights of root."""
    file = directory / "file"
    file.touch()
    os.chown(file, OWNER.uid, GROUP)
    file.chmod(mode)
    everybody = (OWNER, MEMBER, NOBODY)
    assert [may_read(file, one) for one in everybody] == [
        one in readers for one in everybody
    ]


def test_directories_on_the_way_count(directory: Path) -> None:
    (directory / "closed").mkdir()
    file = directory / "closed" / "file"
    file.touch(mode=0o666)
    assert may_read(file, NOBODY)
    file.parent.chmod(0o700)
    assert not may_read(file, NOBODY)


def rights() -> tuple[object, ...]:
    """Return what the kernel tells of this thread's rights."""
    names = ("Uid", "Gid", "Groups", "Cap")
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    dumpable = libc.value("prctl", 3)  # PR_GET_DUMPABLE
    return [line for line in lines if line.startswith(names)], dumpable


@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_afterwards_everything_is_as_before(
    directory: Path, error: type[BaseException] | None
) -> None:
    before, groups = rights(), os.getgroups()
    os.setgroups([*groups, GROUP])
    changed = rights()
    try:
        with credentials.acting_as(NOBODY):
            if error is not None:
                raise error
    except (OSError, KeyboardInterrupt):
        pass
    assert rights() == changed
    os.setgroups(groups)
    assert rights() == before


def test_the_owner_is_acted_as_within_the_rights_of_another(directory: Path) -> None:
    """Afterwards it is that other user again, with no right of root's."""
    file = directory / "file"
    file.touch()
    os.chown(file, OWNER.uid, OWNER.gid)
    with file.open("rb") as opened, credentials.acting_as(NOBODY):
        during = rights()
        with credentials.as_owner(opened.fileno()):
            assert rights() != during
        assert rights() == during


def test_an_interrupt_waits_until_we_are_ourselves_again(directory: Path) -> None:
    before = rights()
    during = []

    def interrupted() -> None:
        with credentials.acting_as(NOBODY):
            signal.raise_signal(signal.SIGINT)
            during.append(rights())

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert during
    assert during != [before]
    assert rights() == before


def test_he_can_neither_signal_nor_trace_us_meanwhile(directory: Path) -> None:
    """Only the file system's user changes (setfsuid(2)), the last of each four."""
    with credentials.acting_as(NOBODY):
        lines, _ = rights()
    assert isinstance(lines, list)
    ours, his = "\t0\t0\t0", f"\t{NOBODY.uid}"
    assert f"Uid:{ours}{his}" in lines
    assert f"Gid:{ours}{his}" in lines


def test_a_user_without_an_account_has_no_groups() -> None:
    taken = {account.pw_uid for account in pwd.getpwall()}
    uid = next(uid for uid in range(20000, 60000) if uid not in taken)
    assert credentials.user(uid).groups == ()
    root = credentials.user(0)
    assert (root.uid, root.gid) == (0, 0)
    assert not credentials.exceed(root)
