"""What authors have for tests of their own: base images, plans that are run, places."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from allocpolicy import (
    Adopt,
    Allocation,
    BaseImage,
    DiskFormat,
    Mode,
    Operation,
    Plan,
    Reserve,
    delegate,
)
from allocpolicy.registry.entry_points import Found
from allocpolicy.testing import (
    FILESYSTEMS,
    BaseKind,
    base_image,
    change_of,
    facts_on,
    make_base,
    observation,
    opened,
    request,
    run_plan,
)
from allocpolicy.testing.import_cost import LIMIT, import_cost
from allocpolicy.testing.law import Broken
from allocpolicy.testing.mounts import filesystem_of
from tests.harness import images

MIB = 1 << 20


@pytest.mark.qemu
@pytest.mark.parametrize("size", [MIB, MIB + 3 * 512, 40 * MIB])
@pytest.mark.parametrize("kind", BaseKind)
def test_qemu_reads_from_a_base_image_what_it_says(
    kind: BaseKind, size: int, tmp_path: Path
) -> None:
    base = make_base(tmp_path, kind, size=size)
    raw = tmp_path / "raw"
    raw.write_bytes(base.content)
    assert len(base.content) == size == base.virtual_size
    assert images.same_content(base.path, raw, formats=(base.format, "raw"))
    if base.format == "qcow2":
        found = images.check(base.path)
        assert ("compressed-clusters" in found) == (kind is BaseKind.COMPRESSED)
    assert any(base.content[-512:])


@pytest.mark.qemu
@pytest.mark.parametrize("format", DiskFormat)
@pytest.mark.parametrize("kind", BaseKind)
def test_a_plan_is_run_without_the_framework(
    kind: BaseKind, format: DiskFormat, tmp_path: Path
) -> None:
    base = make_base(tmp_path, kind)
    with opened(base) as given:
        plan = delegate("performance").plan(
            request=request(format, base=given, virtual_size=2 * MIB),
            facts=facts_on("ext2", base=given),
        )
        disk = run_plan(plan, tmp_path / "disk")
    assert images.same_content(base.path, disk, formats=(base.format, str(format)))
    with pytest.raises(FileExistsError):
        run_plan(plan, disk)


def test_a_plan_in_place_changes_the_file_that_is_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"data" * 1024)
    plan = Plan(
        mode=Mode.IN_PLACE,
        steps=(Reserve(length=MIB),),
        peak_bytes=MIB,
        promised_bytes=MIB,
    )
    run_plan(plan, disk)
    assert disk.stat().st_blocks * 512 >= MIB
    assert disk.read_bytes()[:4096] == b"data" * 1024


def test_a_ready_made_file_takes_the_disks_name(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.write_bytes(b"made")
    plan = Plan(
        mode=Mode.STAGED, steps=(Adopt(path=ready),), peak_bytes=0, promised_bytes=MIB
    )
    assert run_plan(plan, tmp_path / "disk").read_bytes() == b"made"
    assert not ready.exists()


def test_records_fit_together() -> None:
    """What is given is taken, and the rest is what goes with it."""
    thin = observation(virtual_size=MIB)
    assert thin.actual_size < thin.full_size == thin.file_size
    raw = observation(DiskFormat.RAW, allocation=Allocation.WRITTEN, file_size=7)
    assert (raw.file_size, raw.cluster_size) == (7, None)
    assert change_of(thin).operation is Operation.APPLY
    assert change_of(thin, virtual_size=2 * MIB).operation is Operation.RESIZE
    facts = facts_on("btrfs", current=thin)
    assert facts.host.filesystem is FILESYSTEMS["btrfs"]
    assert isinstance(facts.base, BaseImage)
    assert facts_on("xfs", current=thin, obstacle="no").base is None
    assert facts_on("xfs", base=base_image(plain=False)).base == base_image(plain=False)
    assert facts_on("xfs", observed={"a": [1]}).observed == {"a": (1,)}


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_a_places_filesystem_is_known(filesystem_kind: str, directory: Path) -> None:
    below = directory / "with space"
    below.mkdir()
    assert filesystem_of(below) == filesystem_kind


def test_the_cost_of_an_import_is_that_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the module prints."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "quick.py").write_text("print('x')\n")
    busy = "import time\nuntil = time.process_time() + 0.15\n"
    (tmp_path / "busy.py").write_text(f"{busy}while time.process_time() < until: pass")
    costs = {
        name: import_cost(
            Found(name=name, target=f"{name}:X", distribution="x", version="1")
        )
        for name in ("quick", "busy")
    }
    assert costs["quick"] < LIMIT < costs["busy"]


REPLACED = """
import pathlib
tries = pathlib.Path(__file__).with_name("tries")
tries.open("a").write("x")
if len(tries.read_text()) < {succeeds_at}:
    from allocpolicy import of_another_version
"""


def test_an_import_that_fails_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages may be installed meanwhile; the longer that takes the busier it is."""
    monkeypatch.setattr("allocpolicy.testing.import_cost.TRIES", 2)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "again.py").write_text(REPLACED.format(succeeds_at=2))
    found = Found(name="again", target="again:X", distribution="x", version="1")
    assert import_cost(found) < LIMIT
    assert (tmp_path / "tries").read_text() == "xx"
    (tmp_path / "again.py").write_text(REPLACED.format(succeeds_at=99))
    told = "it can't be imported in a process of its own: ImportError: .*of_another_ver"
    with pytest.raises(Broken, match=told):
        import_cost(found)


def test_a_file_that_is_no_module_is_timed_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "of-plugin.py"
    file.write_text("1\n")
    module = types.ModuleType("of_plugin")
    module.__file__ = os.fspath(file)
    monkeypatch.setitem(sys.modules, "of_plugin", module)
    found = Found(
        name="x", target="of_plugin:X", distribution="of-plugin.py", version="file"
    )
    assert import_cost(found) < LIMIT
