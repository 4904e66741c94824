"""A hook that is killed leaves the old disk or the new one, and the VM starts."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import domains, images
from tests.harness.images import MIB
from tests.harness.instances import SIZE, Instances
from tests.harness.kept import content
from tests.harness.libvirt_host import children, wait_until
from tests.harness.machines import DomainDisk, Machine
from tests.libvirtd.conftest import Define, begin_hook, call_hook

MOMENTS = 100  # that the hook is killed at, where all are asked for
DATA = 40 * MIB


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> list[float]:
    """Give the parts of the hook's time after which it is killed.

    Before a third of it Python starts.
    """
    number = request.config.getoption("--faults")
    most = MOMENTS if number == "all" else min(int(number), MOMENTS)
    return [0.3 + 0.7 * (moment + 0.5) / most for moment in range(most)]


@pytest.mark.filesystems("xfs", "ext4", elsewhere={"strategy": "performance"})
@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_whenever_the_hook_is_killed_the_disk_is_whole(
    instances: Instances,
    define: Define,
    strategy: str,
    moments: list[float],
    tmp_path: Path,
) -> None:
    """A disk whose data is shared (xfs) or copied (ext4), and one that is reserved.

    The next start brings it to its policy, and nothing else is left.
    """
    disk = instances.overlay(base=instances.base(data=DATA)).path
    before = content(disk, directory=tmp_path)
    template = tmp_path / "template"
    shutil.copyfile(disk, template)
    machine = define(
        DomainDisk(path=disk), metadata=domains.nova({"allocpolicy:strategy": strategy})
    )
    seconds = seconds_of_hook(machine)
    is_ready = images.fully_mapped if strategy == "performance" else is_reserved
    assert is_ready(disk)
    for moment in moments:
        disk.unlink()
        shutil.copyfile(template, disk)
        kill_hook(machine, after=seconds * moment)
        assert len(instances.names()) <= 3
        assert before.is_of(disk)
        machine.starts()
        machine.end()
        assert instances.names() == ["_base/base", "disk"]
        assert before.is_of(disk)
        assert is_ready(disk)


def is_reserved(disk: Path) -> bool:
    return disk.stat().st_blocks * 512 >= SIZE


def seconds_of_hook(machine: Machine) -> float:
    begin = time.monotonic()
    assert call_hook(machine).status == 0
    return time.monotonic() - begin


def kill_hook(machine: Machine, *, after: float) -> None:
    """Kill the hook so many seconds after it was started, or let it end earlier.

    What it started ends with it, as soon as the storage lets it.
    """
    before = set(machine.host.processes())
    with begin_hook(machine) as process:
        end = time.monotonic() + after
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        with suppress(OSError):  # it has just ended
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: before.issuperset(machine.host.processes()))
