"""What the hook's process imports: a VM's start waits for every millisecond of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from allocpolicy.resolve import config_mention
from tests.harness import hook, images, instances
from tests.harness.domains import disk, nova, own
from tests.harness.filesystems import require_program
from tests.harness.images import MIB
from tests.harness.instances import Instance

# Libraries that take 10 to 100 ms each, and parts of Python that take 1 to 20.
HEAVY = {
    *("cliff", "importlib.metadata", "jsonschema", "numpy", "oslo_config"),
    *("oslo_utils", "rich", "stevedore", "yaml"),
    *("argparse", "dataclasses", "email", "hashlib", "http", "inspect", "logging"),
    *("shutil", "socket", "ssl", "tempfile", "urllib.request", "zipfile"),
}
IN_NO_TIME = HEAVY | {"allocpolicy.contract", "ctypes", "pathlib", "re", "typing"}
# In an instance's own /run: what is remembered there is no other test's.
ALONE = """
mkdir -p /run/allocpolicy && mount -t tmpfs -o mode=755 none /run/allocpolicy &&
"$0" -I -c "$1" && shift && exec "$@"
"""
# As if the configuration had been written long ago.
REMEMBER = """
from allocpolicy.resolve import policy
from allocpolicy.storage import inode
inode._SETTLED = -10**15
policy.load_policy()
"""

REMEMBERED = ("unshare", "--mount", "sh", "-c", ALONE, sys.executable, REMEMBER)

pytestmark = [pytest.mark.qemu, pytest.mark.filesystems("xfs")]


@pytest.fixture
def instance(directory: Path) -> Instance:
    return instances.make(directory)


@pytest.fixture(scope="module")
def started() -> set[str]:
    """The modules that Python starts with, those of its installation included."""
    shown = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        check=True,
        env=hook.environment(),
        text=True,
    )
    return set(shown.stdout.split())


def imported(
    xml: bytes, place: Path, *, prefix: Sequence[str] = (), **variables: str
) -> set[str]:
    """Return the modules that are imported when the hook ends."""
    if any(map(os.path.lexists, config_mention.places())):
        prefix = REMEMBERED  # this machine has a configuration of its own
    listed = place / "modules"
    write = f"open({str(listed)!r}, 'w').write(' '.join(sys.modules))"
    before = (
        f"import os; end = os._exit; os._exit = lambda status: ({write}, end(status))"
    )
    done = hook.run(xml, before=before, prefix=prefix, variables=variables)
    assert done.status == 0, done.stderr
    return set(listed.read_text().split())


def thin(instance: Instance) -> Path:
    return instance.overlay()


def raw(instance: Instance) -> Path:
    return instance.raw()


def mapped(instance: Instance) -> Path:
    path = instance.path / "disk"
    options = "preallocation=metadata"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "1G")
    return path


@pytest.mark.parametrize(
    ("make", "strategy"),
    [
        (thin, "none"),
        (raw, "none"),
        (mapped, "performance"),
        (thin, "performance"),
        (raw, "space"),
        (thin, "space"),
    ],
)
def test_neither_work_nor_its_absence_imports_what_takes_long(
    instance: Instance,
    tmp_path: Path,
    make: Callable[[Instance], Path],
    strategy: str,
    started: set[str],
) -> None:
    """Stamped, rewritten by reflink or reserved at first; then it is left alone."""
    path = make(instance)
    format = "raw" if make is raw else "qcow2"
    specs = {"allocpolicy:strategy": strategy, "hw:cpu_policy": "dedicated"}
    xml = instance.xml(disk(path, format=format), metadata=nova(specs))
    for _ in range(2):
        found = imported(xml, tmp_path)
        assert "allocpolicy.operations.instance" in found
        assert not (found - started) & HEAVY
    late = {"subprocess", "multiprocessing", "selectors", "difflib"}
    assert not (found - started) & late


def test_a_domain_without_a_policy_imports_next_to_nothing(
    instance: Instance, tmp_path: Path, started: set[str]
) -> None:
    found = imported(instance.xml(disk(instance.raw()), metadata=""), tmp_path)
    assert "allocpolicy.libvirt.entry" in found
    assert not (found - started) & IN_NO_TIME


def test_a_configuration_is_remembered_so_that_oslo_config_is_not_imported(
    instance: Instance, tmp_path: Path, started: set[str]
) -> None:
    require_program("unshare")
    (tmp_path / "allocpolicy.conf").write_text("[allocpolicy]\nlibvirt_default=space\n")
    path = instance.raw()
    xml = instance.xml(disk(path, format="raw"), metadata="")
    found = imported(xml, tmp_path, prefix=REMEMBERED, HOME=str(tmp_path))
    assert path.stat().st_blocks * 512 >= 8 * MIB, "the configuration is in force"
    assert not (found - started) & HEAVY


def test_a_snapshot_that_stays_as_it_is_imports_nothing_that_takes_long(
    instance: Instance, tmp_path: Path, started: set[str]
) -> None:
    below = instance.overlay()
    path = instance.overlay("snapshot", base=below, format="qcow2")
    metadata = own({"strategy": "performance"})
    found = imported(instance.xml(disk(path), metadata=metadata), tmp_path)
    assert not (found - started) & HEAVY
    assert os.path.samefile(
        images.info(path, format="qcow2")["backing-filename"], below
    )
