"""Nova's own functions, where Nova is installed: `tox -e nova`.

What they do as root by oslo.privsep they do in this process, as in Nova's own tests; in
production a daemon calls the same functions. Threads are the system's, not eventlet's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import filesystems
from tests.harness.cli import PROGRAM
from tests.harness.libvirt_host import HOOKS, LibvirtHost, libvirt_host
from tests.harness.patience import PATIENCE

if TYPE_CHECKING:
    from tests.harness.nova_compute import ComputeNode

INSTALLED = importlib.util.find_spec("nova") is not None
GIB = 1 << 30

if INSTALLED:
    from nova import monkey_patch

    monkey_patch.patch(backend="threading")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the directory to the environment of tox that has Nova."""
    return None if INSTALLED else True


@pytest.fixture(scope="session", autouse=True)
def nova_conf(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Configure Nova by nobody's files; its database and its messages are our own."""
    import nova.conf
    import nova.config
    import nova.privsep
    from nova import objects
    from nova.db import migration
    from oslo_messaging import transport

    conf = nova.conf.CONF
    conf.register_opts(transport._transport_opts)
    conf.set_override("transport_url", "fake:/")
    database = tmp_path_factory.mktemp("nova") / "nova.db"
    conf.set_override("connection", f"sqlite:///{database}", group="database")
    nova.config.parse_args(["nova-compute"], default_config_files=[])
    nova.conf.neutron.register_dynamic_opts(conf)
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    objects.register_all()
    migration.db_sync(database="main")


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Give a directory on each filesystem that has room for what Nova copies."""
    directory = tmp_path_factory.getbasetemp()
    with (
        filesystems.mounted("xfs", size=3 * GIB, directory=directory) as xfs,
        filesystems.mounted("ext4", size=3 * GIB, directory=directory) as ext4,
    ):
        yield {"xfs": xfs, "ext4": ext4}


@pytest.fixture(scope="session")
def libvirt(
    tmp_path_factory: pytest.TempPathFactory, places: dict[str, Path]
) -> Iterator[LibvirtHost]:
    """Give a libvirt host that has our hook, and sees the filesystems."""
    cache = tmp_path_factory.mktemp("cache")
    with libvirt_host(tmp_path_factory.mktemp("host"), cache=cache) as host:
        hooks = HOOKS / "qemu.d"
        command = (PROGRAM, "libvirt", "install-hook", "--hooks-directory", hooks)
        said = host.run(*command)
        assert said.status == 0, said.stderr
        host.start_daemon()
        yield host
        host.end_daemon()


@pytest.fixture
def node(
    filesystem_kind: str, places: dict[str, Path], libvirt: LibvirtHost
) -> Iterator[ComputeNode]:
    """Give a compute node whose instances are on each filesystem of the test's mark."""
    from tests.harness.nova_compute import compute_node

    directory = places[filesystem_kind] / "node"
    directory.mkdir()
    try:
        with compute_node(libvirt, directory / "instances") as node:
            libvirt.write(
                "/etc/allocpolicy/allocpolicy.conf",
                f"[allocpolicy]\nlibvirt_base_dirs = {node.instances}/_base\n"
                f"libvirt_deadline = {PATIENCE}\n",
            )
            yield node
            node.end()
    finally:
        filesystems.remove_tree(directory)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enable the plugin nova_backend, as nova-compute reads it from nova.conf."""
    from nova.compute import monitors
    from nova.virt.libvirt import imagebackend

    from tests.harness.nova_compute import configured

    monkeypatch.setattr(imagebackend.Backend, "backend", imagebackend.Backend.backend)
    with configured("compute_monitors", ["cpu.allocpolicy"]):
        monitors.MonitorHandler(None)
    chosen = imagebackend.Backend(use_cow=True).backend("qcow2")
    assert chosen is not imagebackend.Qcow2, "the plugin is not installed"
