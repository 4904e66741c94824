"""A remembered policy is the one that oslo.config would read, or none."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.contract.policy import (
    Convert,
    Libvirt,
    Machines,
    Otherwise,
    Policy,
    PreparedDisks,
    SnapshotPolicy,
    ThinIO,
)
from allocpolicy.errors import ConfigError
from allocpolicy.resolve import (
    config,
    config_mention,
    policy_document,
    remembered_policy,
)
from allocpolicy.resolve.policy import load_policy
from allocpolicy.storage import inode, trust

DEFAULT = remembered_policy.Asked()
SPACE = "[allocpolicy]\npreallocate_images = space\n"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the memory, in a directory that only we can change."""
    top = Path("/run" if os.geteuid() == 0 else Path.cwd())
    for one in (top, *top.parents):
        if trust.distrust(one.stat()) is not None:
            pytest.skip(f"others may change {one}")
    directory = Path(tempfile.mkdtemp(dir=top, prefix="allocpolicy-test-"))
    path = directory / "own" / "policy.json"
    monkeypatch.setattr(remembered_policy, "_path", lambda _asked: path)
    yield path
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a configuration, of which all that is written counts as settled."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(inode, "_SETTLED", -(10**15))
    for name in list(os.environ):
        if name.startswith(("OS_", "AL", "SNAP")):
            monkeypatch.delenv(name)
    (tmp_path / "allocpolicy.conf").write_text(SPACE)
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One member for each time that oslo.config has read."""
    counted: list[int] = []
    load = config.load

    def counting(**files: object) -> object:
        counted.append(len(counted))
        return load(**files)  # type: ignore[arg-type]

    monkeypatch.setattr(config, "load", counting)
    return counted


def test_what_was_read_once_is_remembered(memory: Path, reads: list[int]) -> None:
    first = load_policy()
    assert first.default_strategy == "space"
    assert memory.stat().st_mode & 0o077 == 0
    for _ in range(3):
        assert load_policy() == first
    assert len(reads) == 1


def test_files_that_are_asked_for_are_remembered(
    memory: Path, home: Path, reads: list[int]
) -> None:
    """Each choice of them for itself; and no file is mistaken for another."""
    (home / "empty.d").mkdir()
    for name in ("none", "space"):
        (home / f"{name}.conf").write_text(SPACE.replace("space", name))
    for expected, times in (("none", 1), ("space", 2), ("none", 3)):
        path = home / f"{expected}.conf"
        for _ in range(2):
            found = load_policy(config_files=path, config_dirs=home / "empty.d")
            assert found.default_strategy == expected
            assert str(path) in found.default_origin
        assert len(reads) == times
    (home / "none.conf").write_text(SPACE.replace("space", "performance"))
    assert load_policy(config_files=home / "none.conf").default_strategy != "none"


def test_a_relative_path_means_the_file_that_is_there(
    memory: Path, home: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("none", "space"):
        (home / name).mkdir()
        (home / name / "x.conf").write_text(SPACE.replace("space", name))
    for name in ("none", "space", "none"):
        monkeypatch.chdir(home / name)
        assert load_policy(config_files="x.conf").default_strategy == name
    assert len(reads) == 3


def test_a_file_with_a_relative_path_is_remembered(
    memory: Path, home: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever path it is asked for."""
    (home / "x.conf").write_text(SPACE)
    monkeypatch.chdir(home)
    for path in (Path("x.conf"), Path("x.conf"), home / "x.conf"):
        found = load_policy(config_files=path)
        assert f"{home}/x.conf" in found.default_origin
    assert len(reads) == 1


def test_what_comes_through_a_pipe_is_read_each_time(
    memory: Path, reads: list[int]
) -> None:
    """As of a shell's ``--config-file <(...)``."""
    for name in ("none", "space", "space"):
        source, end = os.pipe()
        os.write(end, SPACE.replace("space", name).encode())
        os.close(end)
        found = load_policy(config_files=f"/dev/fd/{source}")
        os.close(source)
        assert found.default_strategy == name
    assert len(reads) == 3
    assert not memory.exists()


def test_memories_of_files_that_were_asked_for_are_few(home: Path) -> None:
    """However many files are asked for, such as temporary ones."""
    asked = [remembered_policy.Asked.of([home / f"{n}"], []) for n in range(200)]
    paths = {remembered_policy._path(one) for one in asked}
    assert remembered_policy._path(DEFAULT) not in paths
    assert len(paths) <= remembered_policy._MOST_ASKED


def rewrite(home: Path) -> None:
    (home / "allocpolicy.conf").write_text(SPACE.replace("space", "none # longer"))


def rewrite_as_long_and_as_old(home: Path) -> None:
    """As an editor does that keeps the times, with a text of the same length."""
    path = home / "allocpolicy.conf"
    was = path.stat()
    # within one tick of the kernel's clock it would be as it was
    while path.stat().st_ctime_ns == was.st_ctime_ns:
        path.write_text(SPACE.replace("space", "other"))
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def replace(home: Path) -> None:
    new = home / "new"
    new.write_text(SPACE.replace("space", "other"))
    new.rename(home / "allocpolicy.conf")


def remove(home: Path) -> None:
    (home / "allocpolicy.conf").rename(home / "allocpolicy.conf.old")
    (home / ".allocpolicy").mkdir()


def add_a_directory(home: Path) -> None:
    (home / "allocpolicy.conf.d").mkdir()
    (home / "allocpolicy.conf.d" / "x.conf").write_text(SPACE.replace("space", "x"))


def hide_by_a_nearer_file(home: Path) -> None:
    (home / ".allocpolicy").mkdir()
    (home / ".allocpolicy" / "allocpolicy.conf").write_text("[allocpolicy]\n")


def break_it(home: Path) -> None:
    (home / "allocpolicy.conf").write_text("[allocpolicy]\npreallocate = space\n")


@pytest.mark.parametrize(
    "change",
    [
        rewrite,
        rewrite_as_long_and_as_old,
        replace,
        remove,
        add_a_directory,
        hide_by_a_nearer_file,
        break_it,
    ],
)
def test_whatever_changes_is_read_again(
    memory: Path, home: Path, change: Callable[[Path], None]
) -> None:
    load_policy()
    assert memory.exists()
    change(home)

    def asked(load: Callable[[], Policy]) -> Policy | str:
        try:
            return load()
        except ConfigError as error:
            return str(error)

    assert remembered_policy.recalled(DEFAULT) is None
    expected = asked(lambda: config.policy(config.load()))
    assert asked(load_policy) == expected
    assert asked(load_policy) == expected


def test_a_file_in_a_directory_counts_as_the_directory_does(
    memory: Path, home: Path
) -> None:
    directory = home / "allocpolicy.conf.d"
    directory.mkdir()
    (directory / "1.conf").write_text(SPACE)
    link = directory / "2.conf"
    link.symlink_to(home / "elsewhere")
    (home / "elsewhere").write_text(SPACE.replace("space", "first"))
    assert load_policy().default_strategy == "first"
    (home / "elsewhere").write_text(SPACE.replace("space", "second"))
    assert load_policy().default_strategy == "second"
    (directory / "3.conf").write_text(SPACE.replace("space", "third"))
    assert load_policy().default_strategy == "third"


def test_a_directory_that_an_option_names_must_be_there(
    memory: Path, home: Path
) -> None:
    disks = home / "disks"
    disks.mkdir()
    text = f"[allocpolicy]\ndisk_directories = {disks}\n"
    (home / "allocpolicy.conf").write_text(text)
    assert load_policy().disk_directories == (disks,)
    disks.rmdir()
    with pytest.raises(ConfigError, match="is not a directory"):
        load_policy()


@pytest.mark.parametrize(
    "variable", ["OS_ALLOCPOLICY__PREALLOCATE_IMAGES", "OS_DEFAULT__LOCK_PATH"]
)
def test_the_environment_is_always_read(
    memory: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    load_policy()
    monkeypatch.setenv(variable, "other")
    assert remembered_policy.recalled(DEFAULT) is None
    memory.unlink()
    load_policy()
    assert not memory.exists()


def test_a_file_that_leads_to_others_is_always_read(memory: Path, home: Path) -> None:
    more = home / "more.conf"
    more.write_text(SPACE.replace("space", "other"))
    (home / "allocpolicy.conf").write_text(f"[DEFAULT]\nconfig_file = {more}\n{SPACE}")
    expected = config.policy(config.load())
    assert load_policy() == load_policy() == expected
    assert not memory.exists()


def test_another_source_is_always_asked(memory: Path, home: Path) -> None:
    text = "[DEFAULT]\nconfig_source = more\n[more]\ndriver = none-such\n"
    (home / "allocpolicy.conf").write_text(text + SPACE)
    assert load_policy() == load_policy()
    assert not memory.exists()


def test_what_is_too_new_to_tell_a_change_is_not_remembered(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inode, "_SETTLED", 10**15)
    load_policy()
    assert not memory.exists()


def test_a_change_while_it_is_read_is_not_missed(
    memory: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = config.policy

    def slowly(conf: object) -> Policy:
        found = read(conf)  # type: ignore[arg-type]
        rewrite(home)
        return found

    monkeypatch.setattr(config, "policy", slowly)
    load_policy()
    assert not memory.exists()


@pytest.mark.parametrize("much", [0, 1, 100, 5000])
def test_a_memory_that_was_cut_short_or_garbled_is_none(
    memory: Path, reads: list[int], much: int
) -> None:
    expected = load_policy()
    content = memory.read_bytes()
    for wrong in (
        content[: min(much, len(content) - 1)],
        b"\xff" * much,
        b"[" * much,
        b"{}",
        b"null",
        b"[1]",
    ):
        memory.write_bytes(wrong)
        assert load_policy() == expected
    assert len(reads) == 7


def test_a_memory_of_something_else_is_none(memory: Path) -> None:
    """Whatever part of the document is another one's, or of another kind."""
    load_policy()
    document = json.loads(memory.read_bytes())
    for key in document:
        for other in (None, [], {}, "x", [["tuple", []]], {"/": None}, 3):
            memory.write_text(json.dumps(document | {key: other}))
            assert remembered_policy.recalled(DEFAULT) is None, (key, other)
        memory.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        assert remembered_policy.recalled(DEFAULT) is None


def test_a_memory_that_others_may_have_made_is_none(memory: Path) -> None:
    load_policy()
    for path, mode in (
        (memory, 0o666),
        (memory.parent, 0o777),
        (memory.parent, 0o1777),
    ):
        path.chmod(mode)
        assert remembered_policy.recalled(DEFAULT) is None
        memory.chmod(0o600)
        memory.parent.chmod(0o755)
        assert remembered_policy.recalled(DEFAULT) is not None
    if os.geteuid() == 0:
        os.chown(memory, 1, -1)
        assert remembered_policy.recalled(DEFAULT) is None


def test_where_others_may_write_nothing_is_remembered(memory: Path) -> None:
    memory.parent.mkdir()
    memory.parent.chmod(0o777)
    load_policy()
    assert not list(memory.parent.iterdir())


def test_a_writer_that_was_killed_hinders_none_for_long(memory: Path) -> None:
    memory.parent.mkdir()
    left = memory.with_name(f"{memory.name}.new")
    left.touch()
    load_policy()
    assert not memory.exists(), "another process may be at it"
    os.utime(left, (0, 0))
    load_policy()
    load_policy()
    assert memory.exists()
    assert not left.exists()


@pytest.mark.parametrize("what", ["encoding", "version", "oslo.config"])
def test_another_reader_reads_itself(
    memory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    load_policy()
    if what == "encoding":
        monkeypatch.setattr(remembered_policy, "_reading", lambda _asked: [])
    elif what == "version":
        monkeypatch.setattr(sys, "hexversion", sys.hexversion + 1)
    else:
        other = tmp_path / "site" / "oslo_config"
        other.mkdir(parents=True)
        (other / "__init__.py").touch()
        monkeypatch.syspath_prepend(str(other.parent))
    assert remembered_policy.recalled(DEFAULT) is None


NAMES = st.binary(min_size=1).filter(lambda name: 0 not in name)
PATHS = NAMES.map(os.fsdecode).map(Path)
WORDS = st.text()
POLICIES = st.builds(
    Policy,
    default_strategy=WORDS,
    default_origin=WORDS,
    overridden_defaults=st.lists(st.tuples(WORDS, WORDS), max_size=2).map(tuple),
    flavor_override=st.booleans(),
    allowed_strategies=st.lists(WORDS, max_size=2).map(tuple),
    headroom=st.builds(
        Headroom, ratio=st.floats(0, 1), minimum=st.integers(0, 1 << 70)
    ),
    lock_path=PATHS,
    image_cache_dir=st.none() | PATHS,
    prepared_disks=st.builds(
        PreparedDisks,
        enabled=st.booleans(),
        max_bytes=st.none() | st.integers(0, 1 << 70),
    ),
    disk_directories=st.lists(PATHS, max_size=2).map(tuple),
    limits=st.builds(
        Limits,
        max_overcommit_ratio=st.floats(0, allow_nan=False, allow_infinity=False),
        max_promised_bytes=st.integers(0, 1 << 70),
    ),
    machines=st.builds(
        Machines,
        qemu=st.none() | st.tuples(st.integers(), st.integers()),
        thin_io=st.sampled_from(ThinIO),
    ),
    snapshot_policy=st.sampled_from(SnapshotPolicy),
    libvirt=st.builds(
        Libvirt,
        default=WORDS,
        convert=st.sampled_from(Convert),
        on_unmet=st.sampled_from(Otherwise),
        deadline=st.floats(0, 1e9),
        base_directories=st.lists(PATHS, max_size=2).map(tuple),
    ),
)


@given(policy=POLICIES)
def test_every_policy_survives_as_data(policy: Policy) -> None:
    data = json.loads(json.dumps(policy_document.encoded(policy)))
    again = policy_document.decoded(data)
    assert again == policy
    assert repr(again) == repr(policy), "1 is not 1.0, and not True"


def test_nothing_is_asked_where_nothing_is_configured(
    memory: Path, home: Path, reads: list[int]
) -> None:
    (home / "allocpolicy.conf").unlink()
    if any(map(os.path.lexists, config_mention.places())):
        pytest.skip("this machine has a configuration")
    assert load_policy() == Policy()
    assert not reads
    assert not memory.exists()
