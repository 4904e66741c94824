"""Every strategy, format and base image, on every filesystem, by the command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from allocpolicy import schema
from tests import images
from tests.cli import allocpolicy, provision
from tests.images import MIB

SIZE = 128 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")


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


@ALL
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
    assert os.listdir(directory) == ["disk"]
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


@ALL
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
    [("sparse", "thin"), ("falloc", "reserved"), ("full", "written")],
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


@ALL
def test_the_stamp_says_under_which_policy_the_disk_was_made(directory: Path) -> None:
    disk = directory / "disk"
    report = provision(disk, "--size", SIZE, "--strategy", "space")
    stamp = os.getxattr(disk, "user.allocpolicy").decode()
    assert schema.validate(report["stamp"], schema=schema.load("stamp")) == []
    assert report["stamp"]["effective"]["strategy"] == "space"
    assert '"space"' in stamp


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
