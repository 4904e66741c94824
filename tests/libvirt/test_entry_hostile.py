"""What owners of disks, and guests, do to the hook: it harms nobody, and it ends."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import capabilities, hook, images, instances, ordinary_user
from tests.harness.capabilities import OWNER
from tests.harness.domains import disk, own
from tests.harness.images import MIB
from tests.harness.instances import Instance
from tests.harness.kept import content

SPACE = own({"strategy": "space"})
PERFORMANCE = own({"strategy": "performance"})
SECRET = b"secret" * 100
UID = ordinary_user.UID

pytestmark = [pytest.mark.qemu, pytest.mark.filesystems("xfs")]

# The disk and a link to another file change places without end (RENAME_EXCHANGE).
SWAPPING = """
import os, sys
from pathlib import Path
from allocpolicy.storage import rename
directory = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
while True:
    rename.exchange("disk", "link", directory=directory)
"""
BOUND = (
    "import allocpolicy.operations.planned as p; from allocpolicy.storage import"
    " effort; p._BOUND = effort.Bound(seconds=0, memory=0)"
)


@pytest.fixture
def instance(directory: Path) -> Instance:
    return instances.make(directory)


def sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


def link_on_the_way(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")
    os.lchown(path.parent, UID, UID)
    path.write_bytes(bytes(MIB))


@pytest.mark.parametrize("make", [os.mkfifo, sock, device, Path.mkdir, link_on_the_way])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_only_regular_files_are_opened_and_links_are_roots(
    instance: Instance, make: Callable[[Path], None], format: str
) -> None:
    path = instance.path / "disk"
    make(path)
    refused = hook.run(instance.xml(disk(path, format=format), metadata=SPACE))
    assert (refused.status, hook.end_of(path) in refused.stderr) == (2, True)


@contextmanager
def swapping(directory: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPING, directory], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("metadata", [SPACE, PERFORMANCE])
def test_who_swaps_the_disk_for_a_link_leads_nowhere(
    instance: Instance, metadata: str
) -> None:
    """At whatever moment: the file that the link names is as it was.

    What becomes of the names in his own directory is his own matter.
    """
    path, target = instance.overlay(), instance.base.parent / "target"
    images.qemu_img("create", "-q", "-f", "qcow2", target, MIB)
    (instance.path / "link").symlink_to(target)
    before, content = target.stat(), target.read_bytes()
    given = instance.xml(disk(path), metadata=metadata)
    with swapping(instance.path):
        for _ in range(3):
            assert hook.run(given).status in (0, 2, 5)
    after = target.stat()
    assert os.listxattr(target) == []
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert target.read_bytes() == content


@pytest.mark.parametrize("name", ["{secret}", "json:{{}}", "nbd:x:1", "../../{name}"])
def test_a_header_leads_to_nothing_that_its_owner_may_not_read(
    instance: Instance, name: str
) -> None:
    secret = instance.base.parent / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    path = instance.path / "disk"
    backing = name.format(secret=secret, name="secret")
    options = ("-u", "-F", "raw", "-b", backing)
    images.qemu_img("create", "-q", "-f", "qcow2", *options, path, MIB)
    os.chown(path, UID, UID)
    xml = instance.xml(disk(path), metadata=PERFORMANCE)
    refused = hook.run(xml, variables={"OS_ALLOCPOLICY__LIBVIRT_ON_UNMET": "fail"})
    assert (refused.status, hook.end_of(path) in refused.stderr) == (2, True)
    assert hook.run(xml).status == 0, "it is left as it is"
    assert SECRET not in path.read_bytes()


def test_a_header_that_claims_much_is_refused_at_once(instance: Instance) -> None:
    path = instance.overlay()
    with path.open("r+b") as file:
        file.seek(24)  # its virtual size
        file.write((1 << 62).to_bytes(8, "big"))
    refused = hook.run(instance.xml(disk(path), metadata=SPACE))
    assert (refused.status, "above 64 TiB" in refused.stderr) == (2, True)


def test_a_disk_that_is_costly_to_look_at_is_refused(instance: Instance) -> None:
    path = instance.overlay()
    given = instance.xml(disk(path), metadata=SPACE)
    refused = hook.run(given, before=BOUND)
    assert (refused.status, hook.end_of(path) in refused.stderr) == (2, True)
    assert "its metadata is enormous" in refused.stderr


@pytest.mark.parametrize("dropped", [("lease",), ("lease", "linux_immutable")])
def test_a_disk_of_another_owner_is_converted_without_cap_lease(
    instance: Instance, dropped: tuple[str, ...]
) -> None:
    path = instance.overlay()
    before = content(path, directory=path.parent)
    os.chown(path, OWNER, OWNER)
    path.chmod(0o600)
    base = ("OS_ALLOCPOLICY__TRUSTED_BASE_DIRECTORIES", str(instance.base))
    given = instance.xml(disk(path), metadata=PERFORMANCE)
    done = hook.run(
        given,
        prefix=capabilities.without(*dropped, command=[]),
        variables=dict([base]),
    )
    assert done.status == 0, done.stderr
    assert "backing-filename" not in images.info(path, format="qcow2")
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (OWNER, 0o600)
    assert before.is_of(path)
