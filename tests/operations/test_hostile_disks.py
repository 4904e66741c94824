"""What a disk says is said by whoever may write to it: root does it no favours.

The attackers are ordinary users; they write headers and stamps of their own disks.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocpolicy.storage import libc
from tests.harness import filesystems, images, ordinary_user
from tests.harness.cli import Finished, allocpolicy, command, environment, provision
from tests.harness.images import MIB

pytestmark = pytest.mark.system
SECRET = b"for root's eyes only" * 4096
SIZE = 2 * MIB
TRUSTED = "OS_ALLOCPOLICY__TRUSTED_BASE_DIRECTORIES"
JSON = ("-f", "json")
# Version 2, and (tag, permissions, id): the owner, one user, the group, mask, others.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 0, ordinary_user.UID),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 4, 0xFFFFFFFF),
    )
)
STAMP = """
import os, sys
os.setxattr(sys.argv[1], "user.allocpolicy", sys.argv[2].encode())
"""


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """Give a filesystem that an ordinary user reaches, and that has leases."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being two users takes root")
    with (
        ordinary_user.public_directory() as directory,
        filesystems.mounted("ext4", size=200 * MIB, directory=directory) as mounted,
    ):
        mounted.parent.chmod(0o755)
        yield mounted


@pytest.fixture
def tenant(public: Path) -> Path:
    """Give a directory of the attacker's."""
    place = Path(tempfile.mkdtemp(prefix="tenant-", dir=public))
    place.chmod(0o755)
    os.chown(place, ordinary_user.UID, ordinary_user.UID)
    return place


@pytest.fixture
def theirs(tenant: Path) -> Path:
    """Give a directory of root's, which the attacker may search."""
    place = tenant.with_name(f"{tenant.name}-root")
    place.mkdir()
    return place


def as_tenant(*arguments: object) -> None:
    subprocess.run(ordinary_user.command(*arguments), check=True, cwd="/")


def stamp_of(
    strategy: str, *, format: str = "qcow2", options: dict[str, object] | None = None
) -> str:
    choice = {"strategy": strategy, "options": options or {}}
    document = {"requested": choice, "effective": choice}
    return json.dumps({"version": 1, **document, "format": format})


def forge(
    disk: Path, *, backing: Path | None, format: str = "raw", strategy: str | None
) -> Path:
    """Let the attacker make a disk whose header names any file, and stamp it."""
    options = ("-u", "-b", backing, "-F", format) if backing else ()
    as_tenant("qemu-img", "create", "-q", "-f", "qcow2", *options, disk, SIZE)
    if strategy is not None:
        as_tenant(sys.executable, "-S", "-c", STAMP, disk, stamp_of(strategy))
    return disk


def secret_file(theirs: Path) -> Path:
    path = theirs / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def secret_directory(theirs: Path) -> Path:
    (theirs / "closed").mkdir(mode=0o700)
    path = theirs / "closed" / "secret"
    path.write_bytes(SECRET)
    return path


def secret_of_a_group(theirs: Path) -> Path:
    """The disk's group tells nothing: a setgid directory gives it to anybody's file."""
    path = theirs / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o640)
    os.chown(path, 0, 4321)
    return path


def behind_a_link(theirs: Path) -> Path:
    link = theirs.with_name(theirs.name.removesuffix("-root")) / "link"
    as_tenant("ln", "-s", secret_file(theirs), link)
    return link


def a_directory_away(theirs: Path) -> Path:
    secret_directory(theirs)
    return theirs / "closed" / ".." / "closed" / "secret"


def denied_by_an_acl(theirs: Path) -> Path:
    """All may read it but he (acl(5))."""
    path = theirs / "secret"
    path.write_bytes(SECRET)
    os.setxattr(path, "system.posix_acl_access", ACL)
    return path


SECRETS = (
    secret_file,
    secret_directory,
    secret_of_a_group,
    behind_a_link,
    a_directory_away,
    denied_by_an_acl,
)


@pytest.mark.parametrize("make", SECRETS)
def test_what_a_disks_owner_may_not_read_is_neither_copied_nor_opened(
    tenant: Path, theirs: Path, make: Callable[[Path], Path]
) -> None:
    """A forged header and a forged stamp get him nothing, whatever root runs."""
    secret = make(theirs)
    disk = forge(tenant / "disk", backing=secret, strategy="performance")
    os.chown(disk, ordinary_user.UID, 4321)
    before = disk.read_bytes(), disk.stat().st_ino
    with untouched(secret):
        for arguments in (("apply", disk), ("apply", disk, "--dry-run")):
            refused(*arguments, says=secret.name)
        refused("resize", disk, 2 * SIZE, says="trusted_base_directories")
        assert audited(disk)["verdict"] == "drifted"  # whatever is below it
        chain = inspected(disk)
    assert [one["unseen"] for one in chain] == [True]
    assert (disk.read_bytes(), disk.stat().st_ino) == before


def test_what_he_may_read_is_copied(tenant: Path, theirs: Path) -> None:
    """Also through his own groups, and what only others may write to."""
    base = theirs / "base"
    base.write_bytes(SECRET)
    disk = forge(tenant / "disk", backing=base, strategy="performance")
    assert allocpolicy("apply", disk).status == 0
    assert images.same_content(disk, base, formats=("qcow2", "raw"))
    assert disk.stat().st_uid == ordinary_user.UID


def test_the_operator_may_trust_a_directory(tenant: Path, theirs: Path) -> None:
    secret = secret_directory(theirs)
    disk = forge(tenant / "disk", backing=secret, strategy="performance")
    refused("apply", disk, says=str(secret), **{TRUSTED: str(tenant)})
    finished = allocpolicy("apply", disk, **{TRUSTED: str(theirs)})
    assert finished.status == 0, finished.stderr
    assert images.same_content(disk, secret, formats=("qcow2", "raw"))


def test_a_trusted_directory_is_where_the_file_is_not_where_a_link_is(
    tenant: Path, theirs: Path
) -> None:
    (theirs / "secret").write_bytes(SECRET)
    (theirs / "secret").chmod(0o600)
    as_tenant("ln", "-s", theirs / "secret", tenant / "link")
    disk = forge(tenant / "disk", backing=tenant / "link", strategy="performance")
    refused("apply", disk, says="may not read", **{TRUSTED: str(tenant)})


def test_a_chain_is_refused_at_any_depth(tenant: Path, theirs: Path) -> None:
    secret = secret_file(theirs)
    middle = forge(tenant / "middle", backing=secret, strategy=None)
    disk = forge(
        tenant / "disk", backing=middle, format="qcow2", strategy="performance"
    )
    refused("apply", disk, says=str(secret))
    assert [one["unseen"] for one in inspected(disk)] == [False, True]


def test_a_backing_file_is_its_own_writers_word(tenant: Path, theirs: Path) -> None:
    """Root's disk on a tenant's image has what the tenant may read, and no more."""
    middle = forge(tenant / "middle", backing=secret_file(theirs), strategy=None)
    disk = theirs / "disk"
    options = ("-u", "-b", middle, "-F", "qcow2")
    images.qemu_img("create", "-q", "-f", "qcow2", *options, disk, SIZE)
    arguments = (disk, "--format", "qcow2", "--strategy", "performance")
    refused("apply", *arguments, says="may not read this file")
    os.chown(middle, 0, 0)
    assert allocpolicy("apply", *arguments).status == 0


def test_an_audit_does_not_look_at_it_either(tenant: Path, theirs: Path) -> None:
    """Whether it is there, or what it is, can't be told from the verdict."""
    disk = forge(tenant / "disk", backing=secret_directory(theirs), strategy="none")
    other = forge(tenant / "other", backing=theirs / "closed" / "gone", strategy="none")
    for one in (disk, other):
        row = audited(one)
        assert row["verdict"] == "unverifiable"
        assert "may not read this file" in row["reason"]


def test_without_the_right_to_find_out_it_is_refused(
    tenant: Path, theirs: Path
) -> None:
    """As in a container without CAP_SETUID; a trusted directory needs none."""
    base = theirs / "base"
    base.write_bytes(SECRET)
    disk = forge(tenant / "disk", backing=base, strategy="performance")
    apply = ("setpriv", "--bounding-set=-setuid,-setgid", *command("apply", disk))
    refusal = subprocess.run(
        apply, env=environment(), capture_output=True, text=True, check=False
    )
    assert refusal.returncode == 2
    assert "CAP_SETUID" in refusal.stderr
    subprocess.run(apply, env=environment(**{TRUSTED: str(theirs)}), check=True)


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_whoever_may_write_to_a_disk_may_have_written_its_header(
    tenant: Path, theirs: Path, mode: int
) -> None:
    """Its owner is root, and all the same it is the attacker's word."""
    secret = secret_file(theirs)
    disk = theirs / "disk"
    disk.touch()
    os.chown(disk, 0, ordinary_user.UID)
    disk.chmod(mode)
    forged = forge(tenant / "forged", backing=secret, strategy=None)
    program = (
        "import sys; open(sys.argv[2], 'r+b').write(open(sys.argv[1], 'rb').read())"
    )
    as_tenant(sys.executable, "-S", "-c", program, forged, disk)
    as_tenant(sys.executable, "-S", "-c", STAMP, disk, stamp_of("performance"))
    refused("apply", disk, says="may write to the disk, and may not read this file")
    disk.chmod(0o600)
    assert allocpolicy("apply", disk).status == 0


def test_a_base_image_that_the_operator_names_is_his_decision(
    tenant: Path, theirs: Path
) -> None:
    secret = secret_file(theirs)
    owner = f"{ordinary_user.UID}:{ordinary_user.UID}"
    disk = tenant / "disk"
    provision(
        *(disk, "--base", secret, "--base-format", "raw", "--owner", owner),
        *("--size", SIZE),
    )
    assert [one["unseen"] for one in inspected(disk)] == [True]


def test_we_are_root_again_afterwards(tenant: Path, theirs: Path) -> None:
    """Rights, groups and what /proc lets others do are as before."""
    before = status_of_process()
    disk = forge(tenant / "disk", backing=secret_file(theirs), strategy="performance")
    refused("apply", disk, says="may not read")
    assert status_of_process() == before
    assert (theirs / "secret").read_bytes() == SECRET


def test_the_header_of_a_disk_without_a_stamp_leads_nowhere(
    tenant: Path, theirs: Path
) -> None:
    """An audit's --format is said for all: the guest of a raw one wrote a header."""
    base = theirs / "base"
    base.write_bytes(SECRET)
    base.chmod(0o644)
    disk = forge(tenant / "disk", backing=base, strategy=None)
    with untouched(base):
        for place in (tenant, disk):
            row = audited(place, "--format", "qcow2", "--strategy", "none")
            assert row["verdict"] == "unverifiable"
            assert "no stamp" in row["reason"]
        row = audited(disk, "--format", "qcow2", "--strategy", "performance")
        assert row["verdict"] == "drifted"
        assert "backing file" in row["reason"]
    (base_seen,) = inspected(disk, "--format", "qcow2")
    assert base_seen["virtual_size"] == len(SECRET)


def test_a_header_uncovers_only_what_its_writer_may_read(
    tenant: Path, theirs: Path
) -> None:
    """QEMU could open the disk for no other: nobody's guest writes there instead."""
    disk = theirs / "disk"
    provision(disk, "--size", SIZE, "--strategy", "none")
    overlay = forge(tenant / "overlay", backing=disk, format="qcow2", strategy=None)

    def verdict() -> str:
        rows = allocpolicy("audit", tenant, disk, *JSON).document
        return str(next(one["verdict"] for one in rows if one["disk"] == str(disk)))

    assert verdict() == "meets"
    os.chown(overlay, 0, 0)
    assert verdict() == "uncovered"
    os.chown(overlay, ordinary_user.UID, ordinary_user.UID)
    disk.chmod(0o644)
    assert verdict() == "uncovered"


def test_a_stamp_chooses_among_what_the_operator_allows(
    tenant: Path, theirs: Path
) -> None:
    disk = forge(tenant / "disk", backing=None, strategy="space")
    only = {"OS_ALLOCPOLICY__ALLOWED_STRATEGIES": "performance"}
    closed = {"OS_ALLOCPOLICY__FLAVOR_OVERRIDE": "false"}
    for operator, says in ((only, "allowed_strategies"), (closed, "flavor_override")):
        refused("apply", disk, says=says, **operator)
        row = audited(disk, **operator)
        assert row["verdict"] == "unverifiable"
        assert says in row["reason"]
        document = allocpolicy("inspect", disk, *JSON, **operator).document
        assert document["verdict"]["judgement"] == "unverifiable"
        assert document["attachment"] is None
        own = {**operator, "OS_ALLOCPOLICY__PREALLOCATE_IMAGES": "space"}
        assert audited(disk, **own)["verdict"] == "drifted"
    assert allocpolicy("apply", disk).status == 0


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_stamp_asks_for_no_more_than_one_disk_may_be_promised(
    tenant: Path, format: str
) -> None:
    disk = tenant / "disk"
    as_tenant("qemu-img", "create", "-q", "-f", format, disk, 64 * MIB)
    text = stamp_of("space", format=format)
    as_tenant(sys.executable, "-S", "-c", STAMP, disk, text)
    limit = {"OS_ALLOCPOLICY__MAX_PROMISED_BYTES": str(16 * MIB)}
    for more in ((), ("--dry-run",), ("--strategy", "space", "--dry-run")):
        refused("apply", disk, *more, says="max_promised_bytes", **limit)
    refused("resize", disk, 65 * MIB, says="max_promised_bytes", **limit)
    assert disk.stat().st_blocks * 512 < MIB
    # What it has already, it keeps, and may give back.
    assert allocpolicy("apply", disk).status == 0
    assert allocpolicy("apply", disk, **limit).status == 0
    thin = allocpolicy("apply", disk, "--strategy", "none", "--thin", **limit)
    assert thin.status == 0, thin.stderr


def test_a_new_disk_is_promised_no_more_either(tenant: Path) -> None:
    limit = {"OS_ALLOCPOLICY__MAX_PROMISED_BYTES": str(MIB)}
    refused("provision", tenant / "disk", "--size", "2M", says="max_promised", **limit)
    assert not (tenant / "disk").exists()


def refused(*arguments: object, says: str, **variables: str) -> None:
    """Run a command that must be refused in one line, with exit status 2."""
    finished = allocpolicy(*arguments, **variables)
    assert finished.status == 2, finished
    assert says in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert SECRET[:20].decode() not in finished.stderr


def audited(*arguments: object, **variables: str) -> dict[str, str]:
    """Audit what has one disk, and return its row."""
    finished = allocpolicy("audit", *arguments, *JSON, **variables)
    assert finished.status in (0, 1, 4), finished
    rows: list[dict[str, str]] = finished.document
    (row,) = rows
    return row


def inspected(*arguments: object) -> list[dict[str, object]]:
    """Inspect a disk, and return its backing chain."""
    finished: Finished = allocpolicy("inspect", *arguments, *JSON)
    assert finished.status == 0, finished.stderr
    chain: list[dict[str, object]] = finished.document["observed"]["backing_chain"]
    return chain


@contextmanager
def untouched(path: Path) -> Iterator[None]:
    """Fail if the file is opened meanwhile, even for a moment: that breaks a lease."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def status_of_process() -> tuple[str, int]:
    """Return what the kernel tells of our rights, and who owns our entry in /proc."""
    rights = ("Uid", "Gid", "Groups", "Cap", "Seccomp", "NoNewPrivs")
    lines = Path("/proc/self/status").read_text().splitlines()
    told = "\n".join(line for line in lines if line.startswith(rights))
    return told, libc.value("prctl", 3)  # PR_GET_DUMPABLE
