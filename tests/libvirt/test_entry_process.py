"""The hook's descriptors, its line, its exit status, and what syslog is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.images.stamp import XATTR
from allocpolicy.storage import named_lock
from tests.conftest import FreshFilesystem
from tests.harness import hook, instances, plugin, strategies
from tests.harness.domains import disk, own
from tests.harness.images import MIB
from tests.harness.instances import Instance
from tests.harness.opener import wait_until

SPACE = own({"strategy": "space"})
ON_ERROR = {"OS_ALLOCPOLICY__LIBVIRT_ON_ERROR": "pass"}
# Each leaves the disk as it is. The first leaves a process that has all that it gets.
STRATEGIES = """
class Left(Strategy):
    api_version = 1
    summary = "leaves the disk as it is"

    def plan(self, *, request, options, facts):
        raise PlanError("no")

    def attach(self, *, options, observation):
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )

    def amend(self, *, request, current, options, facts):
        return Plan(mode=Mode.NOTHING, steps=(), peak_bytes=0, promised_bytes=0)

    def verify(self, *, options, observation):
        return Verdict(judgement=Judgement.MEETS, reason="")

class Daemon(Left, Strategy):
    api_version = 1
    summary = "prints, and leaves a process behind"

    def verify(self, *, options, observation):
        print("printed", flush=True)
        os.system("echo echoed; echo echoed >&2")
        for fd in 1, 2:
            os.write(fd, b"written")
        if (pid := os.fork()) == 0:
            signal.pause()
        print(pid, file=open("{pids}", "a"))
        return Verdict(judgement=Judgement.MEETS, reason="")

class Broken(Left, Strategy):
    api_version = 1
    summary = "fails"

    def verify(self, *, options, observation):
        raise ZeroDivisionError("a\\nb\\x1b[31m")
"""


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return instances.make(tmp_path)


@pytest.fixture
def given(instance: Instance) -> bytes:
    return instance.xml(disk(instance.raw(), format="raw"), metadata=SPACE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    with plugin.directory() as path:
        source = STRATEGIES.replace("{pids}", str(tmp_path / "pids"))
        strategies.install(path, "ours", f"import signal\n{source}")
        yield path


def chosen(instance: Instance, strategy: str) -> bytes:
    metadata = own({"strategy": strategy})
    return instance.xml(disk(instance.raw(), format="raw"), metadata=metadata)


def test_a_process_that_a_plugin_leaves_behind_has_nothing_of_libvirts(
    instance: Instance, site: Path, tmp_path: Path
) -> None:
    """The hook's end is seen while it is there; what was printed is gone."""
    assert hook.run(chosen(instance, "daemon"), paths=[site]).status == 0
    pids = (tmp_path / "pids").read_text().split()  # one each time that it is asked
    for pid in map(int, pids):
        os.kill(pid, signal.SIGKILL)  # it was there
    wait_until(lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in pids))


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&-"])
def test_a_descriptor_that_is_closed_is_no_failure(
    instance: Instance, given: bytes, closed: str
) -> None:
    prefix = ("sh", "-c", f'exec "$@" {closed}', "sh")
    finished = hook.run(given, prefix=prefix, tells="2" not in closed)
    assert finished.status == (2 if closed == "0<&-" else 0)


@pytest.mark.parametrize("operation", ["start", "started", "reconnect", "release"])
def test_other_operations_end_at_once(operation: str) -> None:
    """With an engine that can't be imported."""
    broken = "sys.modules['allocpolicy.errors'] = None"
    finished = hook.run(b"nonsense", (operation, "begin", "-"), before=broken)
    assert finished.status == 0


def test_a_domain_without_a_policy_loads_nothing(tmp_path: Path) -> None:
    """Neither the engine, nor what it takes to read a configuration."""
    seen = tmp_path / "seen"
    tell = f"open({str(seen)!r}, 'w').write(' '.join(sys.modules))"
    before = (
        f"import os; end = os._exit; os._exit = lambda status: ({tell}, end(status))"
    )
    assert (
        hook.run(instances.make(tmp_path).xml(metadata=""), before=before).status == 0
    )
    loaded = {
        name for name in seen.read_text().split() if name.startswith("allocpolicy")
    }
    assert loaded == {
        "allocpolicy",
        "allocpolicy.libvirt",
        "allocpolicy.libvirt.descriptors",
        "allocpolicy.libvirt.document",
        "allocpolicy.libvirt.entry",
        "allocpolicy.libvirt.metadata",
        "allocpolicy.resolve",
        "allocpolicy.resolve.config_mention",
        "allocpolicy.storage",
        "allocpolicy.storage.lock_list",
    }


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ZeroDivisionError('a\\nb\\x1b[31m' + 900 * 'x')", "ZeroDivisionError"),
        ("MemoryError", "MemoryError"),
        ("RecursionError", "RecursionError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_what_nobody_foresaw_is_the_operators_choice(
    given: bytes, raised: str, said: str
) -> None:
    before = (
        "import allocpolicy.libvirt.start as s;"
        f" s.begin = lambda *a, **k: (_ for _ in ()).throw({raised})"
    )
    refused = hook.run(given, before=before)
    assert (refused.status, said in refused.stderr) == (5, True)
    assert "libvirt_on_error" in refused.stderr
    assert hook.run(given, before=before, variables=ON_ERROR).status == 0


def test_who_ends_the_hook_wants_no_vm_to_start(given: bytes) -> None:
    """It is no failure of the hook's: whatever the operator says of those."""
    before = (
        "import signal, allocpolicy.libvirt.start as s;"
        " s.apply_all = lambda *a, **k: signal.raise_signal(signal.SIGTERM)"
    )
    refused = hook.run(given, before=before, variables=ON_ERROR)
    assert refused.status == 128 + signal.SIGTERM
    assert refused.stderr == "allocpolicy: the hook was ended by SIGTERM\n"


def test_a_broken_installation_is_told(given: bytes) -> None:
    broken = "sys.modules['allocpolicy.errors'] = None"
    refused = hook.run(given, before=broken, variables=ON_ERROR)
    assert (refused.status, "allocpolicy.errors" in refused.stderr) == (5, True)


@pytest.mark.parametrize(("deadline", "patience"), [("0.2", 60.0), ("0", 0.2)])
def test_no_lock_is_waited_for_for_ever(
    given: bytes, tmp_path: Path, deadline: str, patience: float
) -> None:
    """Whoever holds it may have been stopped; also where starts have no deadline."""
    disks = named_lock.key("disk", of=os.fsencode(next(tmp_path.glob("*/disk"))))
    locks = {
        "OS_ALLOCPOLICY__LOCK_PATH": str(tmp_path / "locks"),
        "OS_ALLOCPOLICY__LIBVIRT_DEADLINE": deadline,
    }
    before = f"import allocpolicy.libvirt.start as s; s._PATIENCE = {patience}"
    with named_lock.hold(disks, lock_path=tmp_path / "locks"):
        refused = hook.run(given, before=before, variables=locks)
    assert (refused.status, "lslocks" in refused.stderr) == (2, True), refused.stderr
    assert hook.run(given, before=before, variables=locks).status == 0


def test_a_plugins_fault_is_its_own(instance: Instance, site: Path) -> None:
    given = chosen(instance, "broken")
    refused = hook.run(given, paths=[site])
    assert (refused.status, "'broken' of ours" in refused.stderr) == (5, True)
    assert hook.run(given, paths=[site], variables=ON_ERROR).status == 0


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ({"strategy": "spce"}, "did you mean 'space'?"),
        ({"strategi": "space"}, "did you mean 'allocpolicy:strategy'?"),
        ({"strategy.boot": "space"}, "allocpolicy:strategy.root"),
        ({"strategy": "space", "space.reserve": "all"}, "fallocate"),
    ],
)
def test_a_policy_that_cannot_be_is_never_the_operators_choice(
    instance: Instance, specs: dict[str, str], said: str
) -> None:
    given = instance.xml(disk(instance.raw(), format="raw"), metadata=own(specs))
    refused = hook.run(given, variables=ON_ERROR)
    assert (refused.status, said in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("option", "value"), [("CONVERT", "sometimes"), ("DEFAULT", "spce")]
)
def test_a_configuration_that_cannot_be_is_refused(
    instance: Instance, option: str, value: str
) -> None:
    metadata = SPACE if option == "CONVERT" else ""
    given = instance.xml(disk(instance.raw(), format="raw"), metadata=metadata)
    variables = {f"OS_ALLOCPOLICY__LIBVIRT_{option}": value}
    refused = hook.run(given, variables=ON_ERROR | variables)
    assert (refused.status, f"libvirt_{option.lower()}" in refused.stderr.lower()) == (
        2,
        True,
    )


@pytest.mark.parametrize("operation", [hook.PREPARE, hook.MIGRATE, hook.RESTORE])
def test_xml_that_is_none_is_refused(given: bytes, operation: tuple[str, ...]) -> None:
    for xml in (b"", given[:-20], given + b" " * (MIB - len(given) + 1)):
        assert hook.run(xml, operation).status == 2


def test_a_name_stays_in_its_line(instance: Instance) -> None:
    """Whatever it is: the end of a long one is told, and what to do."""
    long = Path("/", *(50 * ["d" * 80]), "\n\u202e", "disk")
    refused = hook.run(instance.xml(disk(long), metadata=SPACE))
    assert refused.status == 2
    assert r"\n\u202e/disk: cannot open it" in refused.stderr


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_full_filesystem_is_told_and_nothing_changes(
    fresh_filesystem: FreshFilesystem, kind: str
) -> None:
    """Whatever else may pass: also the disk for which there is room."""
    instance = instances.make(fresh_filesystem(kind, size=512 * MIB))
    first = instance.raw("disk", size=200 * MIB)
    second = instance.overlay("disk.eph0", base=instance.image(size=300 * MIB))
    before = [(one.stat().st_mtime_ns, one.read_bytes()) for one in (first, second)]
    both = (disk(first, format="raw"), disk(second, target="vdb"))
    refused = hook.run(instance.xml(*both, metadata=SPACE), variables=ON_ERROR)
    assert refused.status == 3
    for word in (str(instance.path), "needed", "free", "short by", "smaller disk"):
        assert word in refused.stderr
    for one, (changed, content) in zip((first, second), before, strict=True):
        assert (one.stat().st_mtime_ns, one.read_bytes()) == (changed, content)
        assert XATTR not in os.listxattr(one)
    # It has room alone.
    assert hook.run(instance.xml(both[1], metadata=SPACE)).status == 0


@pytest.mark.system
def test_syslog_is_told_of_each_disk(instance: Instance, site: Path) -> None:
    """The domain, the disk and the time; once each, refusals too.

    A disk that is changed has the line of a change, whoever makes it.
    """
    path = instance.raw()
    starts = (("space", 0), ("space", 0), ("spce", 2), ("broken", 5))
    with hook.syslog() as log:
        for strategy, status in starts:
            metadata = own({"strategy": strategy})
            given = instance.xml(disk(path, format="raw"), metadata=metadata)
            ended = hook.run(given, prefix=log.prefix, paths=[site])
            assert ended.status == status, ended.stderr
        changed, done, refused, failed, *traceback = log.lines()
    named = f"apply domain {instance.uuid} {path}: no policy, 8 MiB raw, "
    assert changed.startswith(named)
    assert changed.endswith(" s; by root: libvirt's hook")
    assert done.startswith(f"domain {instance.uuid}: vda {path}: space: ")
    assert refused.startswith(f"domain {instance.uuid}: vda {path}: extra spec ")
    assert str(path) in failed
    assert any("ZeroDivisionError" in line for line in traceback)
    assert all(one.endswith(" ms") for one in (done, refused, failed))
