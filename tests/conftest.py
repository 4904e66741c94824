"""Fixtures over real filesystems; each is made once a session, on first use."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from allocpolicy.testing.law import ExecutedLaw
from tests.harness import filesystems, logs
from tests.harness.directory import close_directories

GIB = 1 << 30

MARKER = (
    "filesystems(*kinds): run the test once on each of these filesystems "
    f"({', '.join(filesystems.KINDS)}), through the fixtures `filesystem`, "
    "`filesystem_kind` and `directory`; with elsewhere={parameter: value}, all values "
    "of the other parameters are tried on xfs, and only these elsewhere"
)

SYSTEM = (
    "system: of kernels, filesystems and QEMU, which no version of Python changes; one "
    "environment of tox runs it. Tests that mount, or have the mark qemu, get it"
)
QEMU = "qemu: QEMU makes the images, and is the oracle"
MOUNTING = {"mount_point", "fresh_filesystem"}
# btrfs gives the space of removed files back late.
SIZES = {"btrfs": 4 * GIB}

# How fast the machine is decides nothing; each example of a test has files of its own.
settings.register_profile(
    "allocpolicy",
    settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("allocpolicy")


class FreshFilesystem(Protocol):
    """The type of the fixture `fresh_filesystem`."""

    def __call__(
        self,
        kind: str,
        *,
        size: int = GIB,
        options: tuple[str, ...] = (),
        mkfs_options: tuple[str, ...] = (),
    ) -> Path:
        """Return the mount point of a new filesystem, the test's own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-filesystems",
        action="store_true",
        help="fail instead of skipping where root, loop devices, a filesystem, the "
        "guest kernel or a program is missing",
    )
    parser.addoption(
        "--everywhere",
        action="store_true",
        help="try laws of strategies that take long on each filesystem, not only on "
        "xfs",
    )
    parser.addoption(
        "--faults",
        metavar="NUMBER",
        default="3",
        help="how many faults each command of tests/faults meets, how many power "
        "cuts, and how often tests/libvirtd kills the hook: a number, or all (default: "
        "%(default)s, spread evenly)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    config.addinivalue_line("markers", SYSTEM)
    config.addinivalue_line("markers", QEMU)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what is to run in the background; our commands would too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "filesystem_kind" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("filesystems")
    if marker is None or not set(marker.args) <= set(filesystems.KINDS):
        raise pytest.UsageError(f"{metafunc.definition.nodeid} needs the mark {MARKER}")
    metafunc.parametrize("filesystem_kind", marker.args)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_left_to_xfs(item)]
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        mounts = MOUNTING & set(item.fixturenames)
        if mounts or item.get_closest_marker("qemu") or is_executed(item):
            item.add_marker("system")


def is_executed(item: pytest.Item) -> bool:
    """Return whether the test is a law of the suite that makes disks."""
    call = getattr(item, "callspec", None)
    return call is not None and isinstance(call.params.get("law"), ExecutedLaw)


def is_left_to_xfs(item: pytest.Item) -> bool:
    """Return whether the test's mark leaves this combination of parameters to xfs."""
    marker = item.get_closest_marker("filesystems")
    elsewhere = marker.kwargs.get("elsewhere", {}) if marker else {}
    if not elsewhere:
        return False
    parameters = item.callspec.params  # type: ignore[attr-defined]
    return parameters["filesystem_kind"] != "xfs" and any(
        parameters[name] != value for name, value in elsewhere.items()
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with unavailable_reported(item.config):
        if item.get_closest_marker("qemu"):
            filesystems.require_program("qemu-img")
            filesystems.require_program("qemu-io")
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with unavailable_reported(item.config):
        yield


@pytest.hookimpl(tryfirst=True)  # before the filesystems are unmounted
def pytest_runtest_teardown() -> None:
    close_directories()


@contextmanager
def unavailable_reported(config: pytest.Config) -> Iterator[None]:
    """Skip what the host can't run, or fail it under ``--require-filesystems``."""
    try:
        yield
    except filesystems.Unavailable as error:
        if config.getoption("--require-filesystems"):
            pytest.fail(f"required, but {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def machines_log_left_alone() -> Iterator[None]:
    with logs.nobody_told():
        yield


@pytest.fixture(scope="session")
def mount_point(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Path]]:
    """Give the session's mount point of a kind of filesystem, 1 GiB and more."""
    made: dict[str, Path] = {}
    with ExitStack() as stack:

        def mount_point_of(kind: str) -> Path:
            if kind not in made:
                made[kind] = stack.enter_context(
                    filesystems.mounted(
                        kind,
                        size=SIZES.get(kind, GIB),
                        directory=tmp_path_factory.getbasetemp(),
                    )
                )
            return made[kind]

        yield mount_point_of


@pytest.fixture(scope="session")
def btrfs(mount_point: Callable[[str], Path]) -> Path:
    return mount_point("btrfs")


@pytest.fixture(scope="session")
def ext2(mount_point: Callable[[str], Path]) -> Path:
    return mount_point("ext2")


@pytest.fixture(scope="session")
def ext4(mount_point: Callable[[str], Path]) -> Path:
    return mount_point("ext4")


@pytest.fixture(scope="session")
def tmpfs(mount_point: Callable[[str], Path]) -> Path:
    return mount_point("tmpfs")


@pytest.fixture(scope="session")
def xfs(mount_point: Callable[[str], Path]) -> Path:
    return mount_point("xfs")


@pytest.fixture
def filesystem(filesystem_kind: str, mount_point: Callable[[str], Path]) -> Path:
    """Give the mount point of each filesystem that the test's mark names."""
    return mount_point(filesystem_kind)


@pytest.fixture
def directory(filesystem: Path) -> Iterator[Path]:
    """Give a new empty directory on each filesystem that the test's mark names."""
    path = Path(tempfile.mkdtemp(prefix="test-", dir=filesystem))
    yield path
    filesystems.remove_tree(path)


@pytest.fixture
def fresh_filesystem(tmp_path: Path) -> Iterator[FreshFilesystem]:
    """Make filesystems for this test alone, as a test that fills them needs."""
    with ExitStack() as stack:

        def make(
            kind: str,
            *,
            size: int = GIB,
            options: tuple[str, ...] = (),
            mkfs_options: tuple[str, ...] = (),
        ) -> Path:
            return stack.enter_context(
                filesystems.mounted(
                    kind,
                    size=size,
                    directory=tmp_path,
                    options=options,
                    mkfs_options=mkfs_options,
                )
            )

        yield make
