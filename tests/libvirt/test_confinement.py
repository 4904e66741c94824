"""What is told of the daemon's confinement is what kernels and profiles say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.libvirt import apparmor_rules, confinement, health
from allocpolicy.libvirt.apparmor_rules import Execution
from allocpolicy.libvirt.confinement import Confinement, Enforcement, Mode
from allocpolicy.libvirt.health import State

HOOK = Path("/etc/libvirt/hooks/qemu.d/50-allocpolicy")
INTERPRETER = Path("/opt/allocpolicy/bin/python3")
# The lines about files of Debian's usr.sbin.libvirtd (libvirt 9.0.0-4+deb12u2), whole.
LIBVIRTD = """
#include <tunables/global>
@{LIBVIRT}="libvirt"

profile libvirtd /usr/sbin/libvirtd flags=(attach_disconnected) {
  #include <abstractions/base>
  #include <abstractions/dbus>

  capability kill,
  capability setuid,

  # Needed for vfio
  capability sys_resource,

  mount options=(rw, move) /{,var/}run/libvirt/qemu/*{,/} -> /dev/**,
  umount /dev/,
  network inet stream,
  ptrace (read,trace) peer=/usr/sbin/dnsmasq,
  signal (send) set=("kill", "term") peer=unconfined,

  / r,
  /** rwmkl,

  /bin/* PUx,
  /sbin/* PUx,
  /usr/bin/* PUx,
  /usr/sbin/virtlogd pix,
  /usr/sbin/* PUx,
  /{usr/,}lib/udev/scsi_id PUx,
  /usr/{lib,lib64}/xen-common/bin/xen-toolstack PUx,
  /usr/{lib,lib64,libexec}/xen/bin/* Ux,
  /usr/{lib,libexec}/xen-*/bin/pygrub PUx,
  /var/lib/libvirt/virtd* ixr,

  # force the use of virt-aa-helper
  audit deny /{usr/,}sbin/apparmor_parser rwxl,
  audit deny /etc/apparmor.d/libvirt/** wxl,
  /sys/kernel/security/apparmor/profiles r,
  /usr/lib/libvirt/* PUxr,
  /usr/lib/libvirt/libvirt_parthelper ix,
  /etc/libvirt/hooks/** rmix,
  /etc/xen/scripts/** rmix,

  change_profile -> @{LIBVIRT}-[0-9a-f]*-[0-9a-f]*-[0-9a-f]*-[0-9a-f]*-[0-9a-f]*,

  /usr/{lib,lib64,lib/qemu,libexec}/qemu-bridge-helper Cx -> qemu_bridge_helper,
  # child profile for bridge helper process
  profile qemu_bridge_helper {
   #include <abstractions/base>
   owner @{PROC}/*/status r,
   /opt/** ix,
   /usr/{lib,lib64,lib/qemu,libexec}/qemu-bridge-helper rmix,
  }

  # Site-specific additions and overrides. See local/README for details.
  #include <local/usr.sbin.libvirtd>
}
"""
STATUS = "Name:\t{}\nUmask:\t0022\nUid:\t{}\t0\t0\t0\nCapBnd:\t{}\n"
ALL_CAPABILITIES = "000001ffffffffff"


def execution(path: str, text: str = LIBVIRTD, *, local: str = "") -> Execution:
    def included(name: str) -> tuple[str, ...]:
        return (local,) if name == "local/usr.sbin.libvirtd" else ()

    rules = apparmor_rules.parsed(text, profile="libvirtd", included=included)
    assert rules is not None
    return rules.execution(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (str(HOOK), Execution.WITHIN),
        ("/etc/libvirt/hooks/qemu", Execution.WITHIN),
        ("/etc/libvirt/hooks/", Execution.REFUSED),
        ("/usr/bin/env", Execution.WITHOUT),
        ("/usr/bin/local/env", Execution.REFUSED),  # one * is no directory
        ("/bin/sh", Execution.WITHOUT),
        (str(INTERPRETER), Execution.REFUSED),  # the helper's rule is the helper's
        ("/lib/udev/scsi_id", Execution.WITHOUT),
        ("/usr/lib/udev/scsi_id", Execution.WITHOUT),
        ("/usr/libexec/xen/bin/xl", Execution.WITHOUT),
        ("/usr/sbin/virtlogd", Execution.WITHIN),  # exact before a wildcard
        ("/usr/sbin/dmidecode", Execution.WITHOUT),
        ("/usr/sbin/apparmor_parser", Execution.REFUSED),  # denied
        ("/usr/lib/libvirt/libvirt_parthelper", Execution.WITHIN),
        ("/usr/lib/qemu/qemu-bridge-helper", Execution.WITHIN),
        ("/var/lib/libvirt/virtdAb3", Execution.WITHIN),
    ],
)
def test_debians_profile_is_read_as_the_kernel_reads_it(
    path: str, expected: Execution
) -> None:
    assert execution(path) is expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("/opt/allocpolicy/bin/* PUx,", Execution.WITHOUT),
        ("  rix /opt/allocpolicy/bin/python3,  # ours", Execution.WITHIN),
        ("@{VENVS}/bin/python3 ux,", Execution.WITHOUT),
        ("@{UNKNOWN}/bin/python3 ux,", Execution.REFUSED),
        ("owner /opt/allocpolicy/** rw,", Execution.REFUSED),
        ("/opt/allocpolicy/bin/python[0-9] px -> other,", Execution.WITHOUT),
        ("file,", Execution.WITHIN),
        ("#/opt/** ix,", Execution.REFUSED),
    ],
)
def test_rules_of_the_site_count(rule: str, expected: Execution) -> None:
    local = f"{rule}\n"
    text = '@{VENVS} = /srv "/opt/allocpolicy"\n' + LIBVIRTD
    assert execution(str(INTERPRETER), text, local=local) is expected


def test_a_denial_wins() -> None:
    local = "deny /etc/libvirt/hooks/** x,\n"
    assert execution(str(HOOK), local=local) is Execution.REFUSED


def test_another_profile_is_none() -> None:
    def included(name: str) -> tuple[str, ...]:
        return ()

    for name in ("virtqemud", "qemu_bridge_helper", "libvirt"):
        assert not apparmor_rules.parsed(LIBVIRTD, profile=name, included=included)


@pytest.mark.parametrize(
    ("label", "profile", "mode"),
    [
        ("libvirtd (enforce)\n", "libvirtd", Mode.ENFORCE),
        ("/usr/sbin/libvirtd (complain)\n", "/usr/sbin/libvirtd", Mode.COMPLAIN),
        ("virtqemud (kill)\n", "virtqemud", Mode.KILL),
        ("unconfined\n", None, Mode.UNCONFINED),
        ("lxc-1 (unconfined)\n", "lxc-1", Mode.UNCONFINED),
        ("libvirtd (prompt)\n", "libvirtd", Mode.UNKNOWN),
        ("", None, Mode.UNKNOWN),
    ],
)
def test_labels_of_apparmor(label: str, profile: str | None, mode: Mode) -> None:
    assert confinement.profile_of(label) == (profile, mode)


def test_labels_of_selinux() -> None:
    label = "system_u:system_r:virtqemud_t:s0-s0:c0.c1023\0"
    assert confinement.domain_of(label) == "virtqemud_t"
    assert confinement.domain_of("kernel") is None


def write(root: Path, **files: str) -> None:
    """Write files whose names have two underscores for each slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def looked(root: Path, *, pid: int | None = 812) -> Confinement:
    return confinement.look(pid, hook=HOOK, root=root)


def test_a_debian_host(tmp_path: Path) -> None:
    write(
        tmp_path,
        sys__module__apparmor__parameters__enabled="Y\n",
        proc__812__status=STATUS.format("libvirtd", 0, ALL_CAPABILITIES),
        proc__812__attr__current="unused\n",
        proc__812__attr__apparmor__current="libvirtd (enforce)\n",
    )
    found = looked(tmp_path)
    assert found.lacks == ()
    assert found.apparmor.mode is Mode.ENFORCE
    assert found.apparmor.hook is Execution.UNKNOWN  # no text of the profile
    assert found.apparmor.remedy is None
    place = tmp_path / "etc" / "apparmor.d"
    (place / "local").mkdir(parents=True)
    (place / "usr.sbin.libvirtd").write_text(LIBVIRTD)
    seen = looked(tmp_path).apparmor
    assert seen.rules == Path("/etc/apparmor.d/usr.sbin.libvirtd")
    assert (seen.hook, seen.env) == (Execution.WITHIN, Execution.WITHOUT)
    assert seen.remedy is None
    (place / "local" / "usr.sbin.libvirtd").write_text("deny /etc/libvirt/** x,")
    remedy = looked(tmp_path).apparmor.remedy
    assert remedy is not None
    assert "/etc/apparmor.d/local/usr.sbin.libvirtd" in remedy
    assert f"{HOOK} rmix," in remedy


def test_a_fedora_host(tmp_path: Path) -> None:
    write(
        tmp_path,
        sys__fs__selinux__enforce="1",
        sys__fs__selinux__booleans__virt_hooks_unconfined="0 0",
        proc__812__status=STATUS.format("virtqemud", 0, "000001ffefffffff"),
        proc__812__attr__current="system_u:system_r:virtqemud_t:s0-s0:c0.c1023\0",
    )
    found = looked(tmp_path)
    assert found.lacks == ("CAP_LEASE",)
    assert found.apparmor.mode is Mode.OFF
    assert found.selinux.enforcement is Enforcement.ENFORCING
    assert found.selinux.domain == "virtqemud_t"
    assert found.selinux.remedy == "run: setsebool -P virt_hooks_unconfined on"
    boolean = tmp_path / "sys/fs/selinux/booleans/virt_hooks_unconfined"
    boolean.write_text("1 1")
    doubt = looked(tmp_path)
    assert "ausearch" in str(doubt.selinux.remedy)
    states = {one.subject: one.state for one in health.confined(doubt)}
    assert states["selinux"] is State.UNKNOWN  # not every policy has virtqemud's rule
    label = "system_u:system_r:virtd_t:s0-s0:c0.c1023\0"
    write(tmp_path, proc__812__attr__current=label)
    assert looked(tmp_path).selinux.remedy is None
    boolean.unlink()
    remedy = looked(tmp_path).selinux.remedy
    assert remedy is not None
    assert "ausearch" in remedy
    (tmp_path / "sys/fs/selinux/enforce").write_text("0")
    assert looked(tmp_path).selinux.remedy is None


def test_a_host_with_neither(tmp_path: Path) -> None:
    """No daemon runs there either: that is no confinement that is known."""
    (tmp_path / "proc").mkdir()
    found = looked(tmp_path, pid=None)
    assert found.lacks is None
    assert found.apparmor.mode is Mode.OFF
    assert found.selinux.enforcement is Enforcement.OFF
    write(tmp_path, sys__module__apparmor__parameters__enabled="Y\n")
    assert looked(tmp_path, pid=None).apparmor.mode is Mode.UNKNOWN


def test_this_host_is_read_as_it_is() -> None:
    """Whatever it is: nothing of it is an error."""
    found = confinement.look(os.getpid(), hook=HOOK)
    assert isinstance(found.apparmor.mode, Mode)
