"""nova-compute is nova's, not root's: what works then."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from nova import exception

from allocpolicy_nova_backend import engine
from compute_host import SIZE, ComputeHost
from looks import backing_file, promise

NOVA = 65534
QEMU = 64055
UNREACHABLE = 77  # the exit status of a child that can't do its work

AsNova = Callable[[Callable[[], object]], bool]

# Whenever a disk is planned under it, the base image is touched, for some times. It
# prints, which is nobody's answer.
TOUCHING = """
import os
from pathlib import Path
from allocpolicy import ReadOnly, Strategy, delegate

LEFT = Path({left!r})
BASE = Path({base!r})

class Touching(Strategy):
    api_version = 1
    summary = "it touches the base image"

    def observe(self, *, request, options, host):
        print("observing")
        left = LEFT.read_text()
        if left:
            LEFT.write_text(left[1:])
            os.utime(BASE)
        return {{}}

    def plan(self, **asked):
        return self.other.plan(request=asked["request"], facts=asked["facts"])

    def amend(self, *, request, current, options, facts):
        return self.other.amend(request=request, current=current, facts=facts)

    def verify(self, *, options, observation):
        return self.other.verify(observation=observation)

    def attach(self, *, options, observation):
        return self.other.attach(observation=observation)

    @property
    def other(self):
        return delegate("performance", ReadOnly({{}}))
"""


@pytest.fixture
def as_nova(host: ComputeHost) -> AsNova:
    """Give a function that does something as nova, and returns whether it worked.

    What is root's in the host's directories becomes nova's. The test is skipped where
    this user can't start our interpreter: that is a matter of where the checkout is.
    """

    def as_nova(work: Callable[[], object]) -> bool:
        storage = host.instances.parent
        for path in (storage, *storage.rglob("*")):
            if path.stat().st_uid == 0:
                os.chown(path, NOVA, NOVA)
        _, status = os.waitpid(os.fork() or _work_as_nova(work), 0)
        if os.waitstatus_to_exitcode(status) == UNREACHABLE:
            pytest.skip(f"no ordinary user may run {sys.executable}")
        return status == 0

    return as_nova


def _work_as_nova(work: Callable[[], object]) -> NoReturn:
    """Do something as nova, and end this process."""
    status = 1
    try:
        os.setgroups([])
        os.setresgid(NOVA, NOVA, NOVA)
        os.setresuid(NOVA, NOVA, NOVA)
        if _can_start_workers():
            work()
            status = 0
        else:
            status = UNREACHABLE
    except BaseException:  # noqa: BLE001  (whatever it is, the parent is told)
        traceback.print_exc()
    finally:
        os._exit(status)


def _can_start_workers() -> bool:
    try:
        command = (*engine.COMMAND[:-2], "-c", "import allocpolicy_nova_backend.worker")
        tried = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


def touch(host: ComputeHost, directory: Path, *, times: int) -> None:
    """Install a strategy that touches the base image so many times."""
    left = directory / "left"
    left.write_text("x" * times)
    source = TOUCHING.format(left=str(left), base=str(host.base))
    (directory / "touching.py").write_text(source)
    metadata = directory / "touching-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: touching\n")
    (metadata / "entry_points.txt").write_text(
        "[allocpolicy.strategies]\ntouching = touching:Touching\n"
    )


@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_an_ordinary_user_is_enough(
    host: ComputeHost, as_nova: AsNova, strategy: str
) -> None:
    """It makes disks and grows them, and they are its own."""
    instance = host.instance(strategy=strategy)

    def work() -> None:
        host.cache(instance)
        host.cache(instance, size=2 * SIZE)

    assert as_nova(work)
    disk = Path(host.disk(instance).path)
    assert disk.stat().st_uid == NOVA
    assert promise(disk, strategy=strategy).observed.virtual_size == 2 * SIZE


@pytest.fixture
def touching(
    host: ComputeHost, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Give a function that lets a base image of QEMU's user be touched."""

    def touching(times: int) -> None:
        plugins = host.instances.with_name("plugins")
        plugins.mkdir()
        touch(host, plugins, times=times)
        monkeypatch.setenv("PYTHONPATH", str(plugins), prepend=os.pathsep)
        host.base.chmod(0o666)
        os.chown(host.base, QEMU, QEMU)

    return touching


@pytest.mark.parametrize(("times", "works"), [(1, True), (99, False)])
def test_a_base_image_of_qemus_user_may_be_touched(
    host: ComputeHost,
    as_nova: AsNova,
    touching: Callable[[int], None],
    *,
    times: int,
    works: bool,
) -> None:
    """It can't be held; if it is touched all the time, another host is tried."""
    instance = host.instance(strategy="touching")
    host.base.parent.mkdir()
    host.fetch(str(host.base))
    touching(times)

    def work() -> None:
        refused = pytest.raises(exception.InternalError, match="changed while")
        with contextlib.nullcontext() if works else refused:
            host.cache(instance)

    assert as_nova(work)
    assert host.left(instance) == ({"disk"} if works else set())


def test_what_a_disk_has_below_it_may_be_touched_while_it_is_rewritten(
    host: ComputeHost, as_nova: AsNova, touching: Callable[[int], None]
) -> None:
    """As ephemeral disks are when they are made, and all of them after a move."""
    instance = host.instance()
    disk = host.cache(instance)
    assert backing_file(disk) == str(host.base)
    instance.flavor = host.instance(strategy="touching").flavor
    instance.task_state = "resize_finish"
    touching(1)
    assert as_nova(lambda: host.cache(instance))
    assert backing_file(disk) is None
