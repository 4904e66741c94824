"""A directory of disks with a pool, without mocks: small disks on a real filesystem."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy import Access, DiskFormat, Order, Policy, Progress, Report, provision
from allocpolicy_pool import filling
from allocpolicy_pool.ready import Kind

SIZE = 1 << 20
OURS = Access()
PROGRAM = Path(sys.executable).with_name("allocpolicy")


def unwatched(description: str) -> Progress:
    """Show no progress."""
    return lambda *, done, total: None


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of tests that no version of Python changes."""
    config.addinivalue_line("markers", "system: it makes disks on a filesystem")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that make disks."""
    here = Path(__file__).parent
    for item in items:
        makes_disks = "disks" in getattr(item, "fixturenames", ())
        if makes_disks and item.path.is_relative_to(here):
            item.add_marker("system")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """Give the defaults, with the test's own locks."""
    locks = tmp_path / "locks"
    locks.mkdir(mode=0o700)
    return Policy(lock_path=locks, configured=False)


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """Give an empty directory for disks."""
    directory = tmp_path / "disks"
    directory.mkdir()
    return directory


@pytest.fixture(params=list(DiskFormat), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Give each kind of disk, of 1 MiB."""
    return Kind(virtual_size=SIZE, format=request.param)


@pytest.fixture
def fill(disks: Path, policy: Policy) -> Callable[..., list[Path]]:
    """Give a function that fills the pool and returns the paths of what it made."""

    def fill(count: int, kind: Kind, *, policy: Policy = policy) -> list[Path]:
        made = filling.fill(
            disks, kind=kind, count=count, policy=policy, watch=unwatched
        )
        return [filling.pool_of(disks) / one.name for one in made]

    return fill


@pytest.fixture
def hand_out(disks: Path, policy: Policy) -> Callable[..., Report]:
    """Give a function that makes a disk under the strategy pool."""

    def hand_out(
        name: str,
        kind: Kind,
        *,
        policy: Policy = policy,
        dry_run: bool = False,
        access: Access = OURS,
    ) -> Report:
        order = Order(
            destination=disks / name,
            virtual_size=kind.virtual_size,
            format=kind.format,
            extra_specs={"allocpolicy:strategy": "pool"},
            dry_run=dry_run,
            access=access,
        )
        return provision(order, policy=policy)

    return hand_out


@pytest.fixture
def command(policy: Policy) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs allocpolicy as people do."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("OS_ALLOCPOLICY")}
    environment = ours | {"OS_ALLOCPOLICY__LOCK_PATH": str(policy.lock_path)}

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    return command


@pytest.fixture
def forked() -> Callable[[Callable[[], object]], int]:
    """Give a function that does work in a child process and returns its pid.

    The child exits with 0 when the work is done, with 1 when it raises, and with its
    answer if that is a number.
    """

    def forked(work: Callable[[], object]) -> int:
        if pid := os.fork():
            return pid
        status = 1
        try:
            answer = work()
            status = answer if isinstance(answer, int) else 0
        except BaseException:  # noqa: BLE001  (whatever it is, the parent is told)
            traceback.print_exc()
        finally:
            os._exit(status)

    return forked


@pytest.fixture
def killed_at(
    forked: Callable[[Callable[[], object]], int],
) -> Callable[[int, Callable[[], object]], bool]:
    """Give a function that does work in a child that is killed before its nth call.

    Calls of the kernel are counted as far as Python's audit hooks tell of them. The
    function returns whether the child was killed before its work was done.
    """

    def killed_at(number: int, work: Callable[[], object]) -> bool:
        def until_then() -> object:
            left = number

            def hook(event: str, arguments: object) -> None:
                nonlocal left
                left -= event == "open" or event.startswith(("os.", "fcntl."))
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            return 0

        _, status = os.waitpid(forked(until_then), 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.waitstatus_to_exitcode(status) == 0
        return False

    return killed_at
