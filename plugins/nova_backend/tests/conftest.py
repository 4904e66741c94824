"""A compute host on a real filesystem: Nova's own code, in this process.

What nova-compute asks its privileged daemon to do is done here, as in Nova's own tests.
Nothing of Nova is replaced: images come from files, as the function that fetches them
is an argument.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import nova.conf
import nova.privsep
import pytest
from nova import objects
from nova.virt.libvirt import imagebackend

from allocpolicy.testing import BaseKind, Unavailable, make_base, mounted
from allocpolicy_nova_backend import backend
from compute_host import ComputeHost

CONF = nova.conf.CONF
GIB = 1 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Read no file of this host, and run privileged functions in this process."""
    config.addinivalue_line("markers", "system: it makes disks on a filesystem")
    objects.register_all()
    CONF([], project="nova", default_config_files=[], default_config_dirs=[])
    nova.privsep.sys_admin_pctxt.set_client_mode(False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what CI says."""
    parser.addoption(
        "--require-filesystems",
        action="store_true",
        help="fail instead of skipping where root or a filesystem is missing",
    )


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that make disks."""
    for item in items:
        if "storage" in getattr(item, "fixturenames", ()):
            item.add_marker("system")


@pytest.fixture(scope="session")
def mount_point() -> Iterator[Callable[[str], Path]]:
    """Give the session's filesystem of a kind, of 1 GiB, which everybody may use."""
    made: dict[str, Path] = {}
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory(prefix="nova-"))
        Path(base).chmod(0o755)

        def mount_point(kind: str) -> Path:
            if kind not in made:
                filesystem = mounted(kind, size=GIB, directory=Path(base))
                made[kind] = stack.enter_context(filesystem)
                made[kind].parent.chmod(0o755)
            return made[kind]

        yield mount_point


@pytest.fixture
def storage(
    request: pytest.FixtureRequest, mount_point: Callable[[str], Path]
) -> Iterator[Path]:
    """Give an empty directory on xfs, or on what the test's parameter names."""
    try:
        path = Path(tempfile.mkdtemp(dir=mount_point(getattr(request, "param", "xfs"))))
    except Unavailable as error:
        if request.config.getoption("--require-filesystems"):
            pytest.fail(f"required, but {error}", pytrace=False)
        pytest.skip(str(error))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host(storage: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComputeHost]:
    """Give a compute host with the backend put in."""
    locks, glance, instances = (
        storage / name for name in ("locks", "glance", "instances")
    )
    for directory in (locks, glance, instances):
        directory.mkdir(mode=0o700 if directory is locks else 0o755)
    monkeypatch.setenv("OS_ALLOCPOLICY__LOCK_PATH", str(locks))
    monkeypatch.setattr(imagebackend.Backend, "backend", imagebackend.Backend.backend)
    CONF.set_override("instances_path", str(instances))
    CONF.set_override("images_type", "qcow2", group="libvirt")
    backend.put_in()
    yield ComputeHost(instances=instances, image=make_base(glance, BaseKind.RAW))
    CONF.clear_override("instances_path")
    CONF.clear_override("images_type", group="libvirt")
