"""Whatever call fails, and wherever a command is killed: the disk is whole, or is not.

Each test is a command. It is run once for each of its system calls about a file and for
each fault that the call may meet: an errno, a short read or write, SIGINT, SIGKILL.
CI tries a few of the faults of each command, always the same; ``tox -e faults`` tries
them all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.injection import try_faults
from tests.faults.scenarios import Scenario, scenarios
from tests.faults.tracing import Commands, commands
from tests.harness.filesystems import mounted, remove_tree
from tests.harness.images import MIB

pytestmark = [pytest.mark.system, pytest.mark.qemu]

SIZE = 512 * MIB


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    locks = tmp_path_factory.mktemp("locks")
    with commands(OS_ALLOCPOLICY__LOCK_PATH=str(locks)) as running:
        yield running


@pytest.fixture(scope="module")
def storage(tmpfs: Path) -> Iterator[Path]:
    """Give xfs in memory: it has reflink and leases, and no disk to wait for."""
    with mounted("xfs", size=SIZE, directory=tmpfs) as mount_point:
        yield mount_point


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_a_fault_at_any_call_leaves_nothing_half_done(
    scenario: Scenario,
    traced: Commands,
    storage: Path,
    most: int | None,
    record_property: Callable[[str, object], None],
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="faults-", dir=storage))
    try:
        tried = try_faults(scenario, commands=traced, directory=directory, most=most)
    finally:
        remove_tree(directory)
    record_property("faults", dict(tried.runs))
    if tried.wrong:
        pytest.fail("\n".join(tried.wrong), pytrace=False)
