"""Every strategy, format and base image, on every filesystem, by the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import fully_allocated_size, schema
from allocpolicy.wording import amount
from tests.conftest import FreshFilesystem
from tests.harness import images
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.direct_io import qemu_io
from tests.harness.filesystems import available, disks_in
from tests.harness.images import GIB, MIB

SIZE = 128 * MIB
EVERYWHERE = ("ext4", "xfs", "btrfs", "tmpfs")
ALL = pytest.mark.filesystems(*EVERYWHERE)


@pytest.fixture(scope="session")
def raw_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def qcow2_base(raw_base: Path) -> Path:
    return images.convert(raw_base, format="qcow2")


@pytest.fixture(scope="session")
def compressed_base(raw_base: Path) -> Path:
    return images.convert(raw_base, format="qcow2", compress=True)


def assert_disk(disk: Path, *, format: str, base: Path, base_format: str) -> None:
    """The guest sees the base image, then zeroes to the disk's end."""
    assert images.info(disk, format=format)["virtual-size"] == SIZE
    assert images.same_content(disk, base, formats=(format, base_format))
    if format == "qcow2":
        result = images.check(disk)
        assert "leaks" not in result
        assert "corruptions" not in result


@pytest.mark.filesystems(
    *EVERYWHERE, elsewhere={"base": "qcow2_base", "format": "qcow2"}
)
@pytest.mark.parametrize("base", ["raw_base", "qcow2_base", "compressed_base"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("strategy", ["none", "space", "performance"])
def test_every_disk_holds_its_base_image_and_keeps_its_promise(
    directory: Path,
    filesystem_kind: str,
    strategy: str,
    format: str,
    base: str,
    request: pytest.FixtureRequest,
) -> None:
    source: Path = request.getfixturevalue(base)
    base_format = source.suffix[1:]
    disk = directory / "disk"
    report = provision(
        *(disk, "--base", source, "--base-format", base_format, "--size", SIZE),
        *("--strategy", strategy, "--format", format),
    )
    assert_disk(disk, format=format, base=source, base_format=base_format)
    assert not schema.validate(report, schema=schema.load("report"))
    assert disks_in(directory) == ["disk"]
    status = disk.stat()
    observed = report["observed"]
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert observed["file_size"] == status.st_size
    assert observed["virtual_size"] == SIZE
    assert report["verdict"]["judgement"] == "meets"
    if strategy == "space":
        assert observed["allocation"] == "reserved"
        assert observed["guaranteed"]
        assert status.st_blocks * 512 >= SIZE
    if strategy == "performance":
        assert observed["mapping"] == "full"
        assert observed["backing_file"] is None
        assert status.st_blocks * 512 < SIZE
        if format == "qcow2":
            assert images.fully_mapped(disk)
    if strategy == "none":
        assert observed["allocation"] == "thin"
        assert status.st_blocks * 512 < SIZE
    if format == "qcow2" and strategy != "performance":
        assert observed["backing_file"] == str(source)
        assert (
            images.info(disk, format="qcow2")["backing-filename-format"] == base_format
        )


@pytest.mark.filesystems(*EVERYWHERE, elsewhere={"role": "swap", "format": "raw"})
@pytest.mark.parametrize("role", ["ephemeral", "swap"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("strategy", ["none", "space", "performance"])
def test_disks_without_a_base_image_are_empty(
    directory: Path, strategy: str, format: str, role: str
) -> None:
    disk = directory / "disk"
    report = provision(
        *(disk, "--size", SIZE, "--disk", role),
        *("--strategy", strategy, "--format", format),
    )
    zeroes = directory / "zeroes"
    with zeroes.open("wb") as file:
        file.truncate(SIZE)
    assert images.same_content(disk, zeroes, formats=(format, "raw"))
    assert report["verdict"]["judgement"] == "meets"


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize(
    ("data", "allocation"),
    [
        ("sparse", "thin"),
        ("copied", "thin"),
        ("falloc", "reserved"),
        ("full", "written"),
    ],
)
def test_data_says_how_storage_stands_behind_a_performance_disk(
    directory: Path, raw_base: Path, format: str, data: str, allocation: str
) -> None:
    disk = directory / "disk"
    report = provision(
        *(disk, "--base", raw_base, "--size", SIZE, "--format", format),
        *("--strategy", "performance"),
        *("--extra-spec", f"allocpolicy:performance.data={data}"),
    )
    assert report["observed"]["allocation"] == allocation
    assert report["observed"]["mapping"] == "full"
    assert_disk(disk, format=format, base=raw_base, base_format="raw")


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_a_third_partys_strategy_makes_disks_as_ours_do(
    directory: Path, raw_base: Path
) -> None:
    disk = directory / "disk"
    report = provision(
        *(disk, "--base", raw_base, "--size", SIZE, "--strategy", "partial"),
        *("--extra-spec", "allocpolicy:partial.share=50"),
    )
    assert report["verdict"]["judgement"] == "meets"
    assert SIZE // 2 <= disk.stat().st_blocks * 512 < SIZE
    assert_disk(disk, format="qcow2", base=raw_base, base_format="raw")


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
@pytest.mark.parametrize("strategy", ["none", "space"])
def test_an_image_is_as_long_as_its_guest_can_make_it(
    directory: Path, raw_base: Path, strategy: str
) -> None:
    """Before and after it grew; thin, that takes no storage."""
    disk = directory / "disk"
    made = provision(disk, "--base", raw_base, "--size", SIZE, "--strategy", strategy)
    length = disk.stat().st_size
    assert length == made["observed"]["full_size"] == fully_allocated_size(SIZE)
    assert allocpolicy("resize", disk, 2 * SIZE).status == 0
    grown = json.loads(allocpolicy("inspect", disk, "-f", "json").stdout)["observed"]
    assert grown["file_size"] == grown["full_size"] >= fully_allocated_size(2 * SIZE)
    assert grown["allocation"] == {"none": "thin", "space": "reserved"}[strategy]
    images.check(disk)


def test_an_image_is_made_where_its_file_may_not_be_so_long(tmp_path: Path) -> None:
    """A limit of the process, as ulimit -f sets it, is no reason to refuse it."""
    disk = tmp_path / "disk"
    limited = ["prlimit", f"--fsize={MIB}", *command("provision", disk, "--size", SIZE)]
    subprocess.run(limited, check=True, env=environment(), stdout=subprocess.DEVNULL)
    assert disk.stat().st_size < MIB


@pytest.mark.filesystems("xfs", "btrfs")
class TestSharing:
    """The base image beside the disk, on a filesystem that can share blocks."""

    DATA = 32 * MIB

    @pytest.fixture(params=["raw", "qcow2"])
    def base(self, directory: Path, request: pytest.FixtureRequest) -> Path:
        """Give a base image that is all data."""
        raw = directory / "base.raw"
        raw.write_bytes(random.Random(1).randbytes(self.DATA))
        if request.param == "raw":
            return raw
        return images.convert(raw, format="qcow2")

    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    def test_sparse_shares_the_base_and_takes_little(
        self, directory: Path, base: Path, format: str
    ) -> None:
        """A whole copy costs its metadata."""
        free = available(directory)
        disk = directory / "disk"
        report = self.make(disk, base, format=format, data="sparse")
        assert report["observed"]["extents"]["shared"] == self.DATA
        # xfs takes its extent-size hint of 1 MiB for each piece of metadata.
        assert free - available(directory) < 4 * MIB
        assert any("share" in step for step in report["steps"])
        assert_disk(disk, format=format, base=base, base_format=base.suffix[1:])

    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    def test_copied_data_is_shared_with_nobody(
        self, directory: Path, base: Path, format: str
    ) -> None:
        """The rest stays a hole; once somebody shares it, apply copies it again."""
        disk = directory / "disk"
        report = self.make(disk, base, format=format, data="copied")
        extents = report["observed"]["extents"]
        assert extents["shared"] == 0
        assert extents["hole"] > 0
        assert report["observed"]["allocation"] == "thin"
        assert "the base image is copied" in report["effective"]["reason"]
        assert_disk(disk, format=format, base=base, base_format=base.suffix[1:])
        snapshot = directory / "snapshot"
        subprocess.run(["cp", "--reflink=always", disk, snapshot], check=True)
        drifted = self.audited(disk)
        assert drifted["verdict"] == "drifted"
        assert "other files share" in drifted["reason"]
        assert allocpolicy("apply", disk).status == 0
        assert self.audited(disk)["verdict"] == "meets"
        assert_disk(disk, format=format, base=base, base_format=base.suffix[1:])

    @pytest.mark.parametrize(
        ("format", "data"), [("qcow2", "falloc"), ("qcow2", "full"), ("raw", "falloc")]
    )
    def test_storage_of_its_own_is_never_shared(
        self, directory: Path, base: Path, format: str, data: str
    ) -> None:
        """Shared blocks are no guarantee: the base is copied, and the plan says so."""
        disk = directory / "disk"
        report = self.make(disk, base, format=format, data=data)
        extents = report["observed"]["extents"]
        assert (extents["shared"], extents["hole"]) == (0, 0)
        assert extents["unwritten"] == 0 or data == "falloc"
        assert not any("share" in step for step in report["steps"])
        assert "the base image is copied" in report["effective"]["reason"]
        assert_disk(disk, format=format, base=base, base_format=base.suffix[1:])

    def test_space_is_never_shared(self, directory: Path, base: Path) -> None:
        disk = directory / "disk"
        report = provision(
            *(disk, "--base", base, "--size", SIZE, "--format", "raw"),
            *("--strategy", "space"),
        )
        assert report["observed"]["extents"]["shared"] == 0
        assert report["observed"]["allocation"] == "reserved"

    def audited(self, disk: Path) -> Any:
        (row,) = json.loads(allocpolicy("audit", disk, "-f", "json").stdout)
        return row

    def make(self, disk: Path, base: Path, *, format: str, data: str) -> Any:
        return provision(
            *(disk, "--base", base, "--size", SIZE, "--format", format),
            *("--strategy", "performance"),
            *("--extra-spec", f"allocpolicy:performance.data={data}"),
        )


class TestBackedLayout:
    """performance.layout = backed: mapped clusters over the base image."""

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    @pytest.mark.parametrize(
        ("data", "allocation", "base"),
        [
            ("sparse", "thin", "compressed_base"),
            ("falloc", "reserved", "raw_base"),
            ("full", "written", "qcow2_base"),
        ],
    )
    def test_it_is_an_overlay_that_is_fully_mapped(
        self,
        directory: Path,
        data: str,
        allocation: str,
        base: str,
        request: pytest.FixtureRequest,
    ) -> None:
        """Nothing is copied, and the guest's first write changes no L2 pointer."""
        source: Path = request.getfixturevalue(base)
        base_format = source.suffix[1:]
        disk = directory / "disk"
        report = self.make(disk, source, data=data)
        assert_disk(disk, format="qcow2", base=source, base_format=base_format)
        told = images.info(disk, format="qcow2")
        assert told["format-specific"]["data"]["extended-l2"]
        assert told["backing-filename"] == str(source)
        assert told["backing-filename-format"] == base_format
        result = images.check(disk)
        assert result["allocated-clusters"] == result["total-clusters"]
        observed = report["observed"]
        assert observed["mapping"] == "full"
        assert observed["allocation"] == allocation
        assert report["verdict"]["judgement"] == "meets"
        assert not any("cop" in step or "share" in step for step in report["steps"])

    @pytest.mark.filesystems("xfs")
    @pytest.mark.parametrize("data", ["sparse", "falloc", "full"])
    def test_its_reason_speaks_of_no_copy(
        self, directory: Path, raw_base: Path, data: str
    ) -> None:
        """Also where a copy could have shared the base image."""
        base = Path(shutil.copy(raw_base, directory / "base.raw"))
        report = self.make(directory / "disk", base, data=data)
        assert "cop" not in report["effective"]["reason"]

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    def test_what_was_reserved_takes_all_that_a_guest_writes(
        self, directory: Path, raw_base: Path
    ) -> None:
        """No write, however small, makes the file grow, and the content is right."""
        disk = directory / "disk"
        report = self.make(disk, raw_base, data="falloc")
        commands = [f"write -P 7 {offset} 512" for offset in range(0, SIZE, 96 << 10)]
        commands.append(f"write -P 8 {MIB} {SIZE - MIB}")
        assert qemu_io(disk, commands, image_format="qcow2") == 0
        assert disk.stat().st_size == report["observed"]["file_size"]
        checked = [f"read -P 8 {MIB} {SIZE - MIB}", "read -P 7 0 512"]
        assert qemu_io(disk, checked, image_format="qcow2") == 0
        result = images.check(disk)
        assert "leaks" not in result
        assert "corruptions" not in result

    @pytest.mark.filesystems("ext4")
    @pytest.mark.parametrize("arguments", [(), ("--format", "raw")])
    def test_it_needs_a_base_image_and_qcow2(
        self, directory: Path, raw_base: Path, arguments: tuple[str, ...]
    ) -> None:
        """Anything else is a request that cannot be served."""
        base = ("--base", raw_base) if arguments else ()
        finished = allocpolicy(
            *("provision", directory / "disk", "--size", SIZE, *base, *arguments),
            *("--strategy", "performance"),
            *("--extra-spec", "allocpolicy:performance.layout=backed"),
        )
        assert finished.status == 2
        assert len(finished.stderr.splitlines()) == 1
        assert "layout" in finished.stderr
        assert os.listdir(directory) == []

    def make(self, disk: Path, base: Path, *, data: str) -> Any:
        return provision(
            *(disk, "--base", base, "--base-format", base.suffix[1:], "--size", SIZE),
            *("--strategy", "performance"),
            *("--extra-spec", "allocpolicy:performance.layout=backed"),
            *("--extra-spec", f"allocpolicy:performance.data={data}"),
        )


class TestWithoutPrograms:
    """Disks of raw and plain qcow2 bases need no other program, and find none."""

    @pytest.mark.filesystems("ext4")
    @pytest.mark.parametrize("base", ["raw_base", "qcow2_base"])
    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    @pytest.mark.parametrize(
        ("strategy", "options"),
        [
            ("none", ""),
            ("space", ""),
            ("performance", "data=sparse"),
            ("performance", "data=falloc"),
            ("performance", "data=full"),
        ],
    )
    def test_no_process_is_started(
        self,
        directory: Path,
        tmp_path: Path,
        strategy: str,
        options: str,
        format: str,
        base: str,
        request: pytest.FixtureRequest,
    ) -> None:
        source: Path = request.getfixturevalue(base)
        specs = ("--extra-spec", f"allocpolicy:{strategy}.{options}")
        disk = directory / "disk"
        provision(
            *(disk, "--base", source, "--size", SIZE),
            *("--strategy", strategy, "--format", format, *(specs if options else ())),
            PATH=str(tmp_path),
        )
        base_format = source.suffix[1:]
        assert_disk(disk, format=format, base=source, base_format=base_format)

    @pytest.mark.filesystems("ext4")
    def test_what_needs_one_says_so(
        self, directory: Path, tmp_path: Path, compressed_base: Path
    ) -> None:
        """The emptied PATH does hide qemu-img, and nothing is left."""
        finished = allocpolicy(
            *("provision", directory / "disk", "--base", compressed_base),
            *("--strategy", "performance"),
            PATH=str(tmp_path),
        )
        assert finished.status == 5
        assert "not installed" in finished.stderr
        assert os.listdir(directory) == []


def test_a_disk_of_space_never_grows(fresh_filesystem: FreshFilesystem) -> None:
    """Of more than 2 GiB, so that QEMU adds refcount blocks; all clusters are written.

    A few bytes in each cluster map it: the reserved rest takes no time.
    """
    size = 2200 * MIB + 512
    place = fresh_filesystem("ext4", size=3 * GIB)
    disk = place / "disk"
    report = provision(disk, "--size", size, "--strategy", "space")
    taken = disk.stat().st_blocks
    clusters = -(-size // (64 << 10))
    images.qemu_img(
        *("bench", "-f", "qcow2", "-t", "writeback", "-w", "-d", "1"),
        *("-c", clusters, "-s", 512, "-S", 64 << 10, disk),
    )
    result = images.check(disk)
    assert result["allocated-clusters"] == result["total-clusters"] == clusters
    assert "leaks" not in result
    assert disk.stat().st_size == report["observed"]["file_size"]
    # Extent tree blocks of ext4 count as the file's.
    assert disk.stat().st_blocks - taken < 8 * MIB // 512


@ALL
def test_the_stamp_says_under_which_policy_the_disk_was_made(directory: Path) -> None:
    disk = directory / "disk"
    report = provision(disk, "--size", SIZE, "--strategy", "space")
    stamp = os.getxattr(disk, "user.allocpolicy").decode()
    assert schema.validate(report["stamp"], schema=schema.load("stamp")) == []
    assert report["stamp"]["effective"]["strategy"] == "space"
    assert '"space"' in stamp


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_report_tells_what_the_plan_takes(directory: Path, format: str) -> None:
    """In a dry run, too, and for people as well."""
    disk = directory / "disk"
    arguments = ("--size", SIZE, "--format", format, "--strategy", "space")
    dry = provision(disk, *arguments, "--dry-run")
    done = provision(disk, *arguments)
    sizes = ("reserved_bytes", "peak_bytes", "promised_bytes")
    assert [dry[one] for one in sizes] == [done[one] for one in sizes]
    assert SIZE <= dry["reserved_bytes"] <= dry["peak_bytes"] <= dry["promised_bytes"]
    told = allocpolicy("provision", directory / "other", *arguments, "--dry-run")
    assert f"{amount(dry['peak_bytes'])} while it is done" in told.stdout
    whole = allocpolicy(
        "provision", directory / "other", *arguments, "--dry-run", "--long"
    )
    assert all(f"({dry[one]} bytes)" in whole.stdout for one in sizes)
    grown = allocpolicy("resize", disk, "+64M", "--dry-run", "-f", "json").document
    assert 0 < grown["reserved_bytes"] <= grown["peak_bytes"] < dry["peak_bytes"]
    (row,) = allocpolicy("apply", disk, "--dry-run", "-f", "json").document
    assert [row[one] for one in sizes] == [0, 0, done["observed"]["full_size"]]


@ALL
def test_a_dry_run_shows_the_plan_and_touches_nothing(
    directory: Path, raw_base: Path
) -> None:
    before = directory.stat().st_mtime_ns
    report = provision(
        *(directory / "disk", "--base", raw_base, "--size", SIZE, "--dry-run"),
        *("--strategy", "performance"),
    )
    assert report["steps"]
    assert report["observed"] is None
    assert not schema.validate(report, schema=schema.load("report"))
    assert os.listdir(directory) == []
    assert directory.stat().st_mtime_ns == before


@pytest.mark.filesystems("ext2")
class TestWithoutFallocate:
    """ext2 has no fallocate: refused, or done otherwise when so configured."""

    def test_space_is_refused_with_exit_4(self, directory: Path) -> None:
        finished = allocpolicy(
            *("provision", directory / "disk", "--size", SIZE, "--strategy", "space")
        )
        assert finished.status == 4
        assert len(finished.stderr.splitlines()) == 1
        assert "ext2" in finished.stderr
        assert os.listdir(directory) == []

    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    def test_zero_fill_writes_all_of_it(
        self, directory: Path, raw_base: Path, format: str
    ) -> None:
        disk = directory / "disk"
        report = provision(
            *(disk, "--base", raw_base, "--size", SIZE, "--format", format),
            *("--strategy", "space"),
            *("--extra-spec", "allocpolicy:space.reserve=zero-fill"),
        )
        assert report["observed"]["allocation"] == "written"
        assert disk.stat().st_blocks * 512 >= SIZE
        assert_disk(disk, format=format, base=raw_base, base_format="raw")

    def test_a_configured_fallback_is_taken_and_named(self, directory: Path) -> None:
        disk = directory / "disk"
        report = provision(
            *(disk, "--size", SIZE, "--strategy", "space"),
            OS_ALLOCPOLICY__ON_UNSUPPORTED="fallback",
            OS_ALLOCPOLICY__FALLBACK_STRATEGIES="performance",
        )
        assert report["requested"]["strategy"] == "space"
        assert report["effective"]["strategy"] == "performance"
        assert "ext2" in report["effective"]["reason"]


@ALL
def test_cloud_formats_start_from_a_converted_copy_in_the_cache(
    directory: Path, raw_base: Path
) -> None:
    source = images.convert(
        raw_base, format="vmdk", options="subformat=streamOptimized"
    )
    for name in ("first", "second"):
        report = provision(
            *(directory / name, "--base", source, "--size", SIZE),
            *("--strategy", "none"),
        )
        backing = Path(report["observed"]["backing_file"])
        assert backing.parent == directory / "_base"
        assert_disk(directory / name, format="qcow2", base=raw_base, base_format="raw")
    entries = list((directory / "_base").glob("*.raw"))
    assert entries == [backing]
    assert stat.S_IMODE(backing.stat().st_mode) == 0o444


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vhdx", "subformat=dynamic"),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("qed", ""),
    ],
)
@pytest.mark.parametrize("strategy", ["none", "space", "performance"])
def test_every_foreign_format_gives_the_same_disk(
    directory: Path, raw_base: Path, strategy: str, format: str, options: str
) -> None:
    source = images.convert(raw_base, format=format, options=options)
    disk = directory / "disk"
    provision(
        *(disk, "--base", source, "--base-format", format, "--size", SIZE),
        *("--strategy", strategy),
    )
    assert_disk(disk, format="qcow2", base=raw_base, base_format="raw")
