"""A libvirt host of the tests' own: its daemon, its machines and its files.

All of it is in namespaces that end with the process that made them: a kill leaves no
daemon, no machine and no file. What libvirt reads and writes (/etc, /run, /var/lib, …)
is a layer over the machine's own, which stays as it is; disks are the machine's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.filesystems import Unavailable, require_program
from tests.harness.patience import PATIENCE

# There is no KVM: where it exists and hangs, so would libvirtd, which tries it. What is
# in its place is read-only, as libvirt tries each QEMU again and again where it may
# write there (virQEMUCapsIsValid). Who loses his parent, the kernel reaps.
SETUP = """
layers=$1 cache=$2
mount -t tmpfs -o mode=755 tmpfs "$layers"
for directory in /etc /var/lib /var/log /var/cache; do
    layer=$layers$directory
    mkdir -p "$layer/upper" "$layer/work"
    options=lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work
    mount -t overlay -o "$options" overlay "$directory"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
mkdir -p /var/cache/libvirt
mount --bind "$cache" /var/cache/libvirt
touch "$layers/none"
for other in /dev/kvm /usr/bin/qemu-system-*; do
    case $other in *-x86_64) continue ;; esac
    [ -e "$other" ] || continue
    mount --bind "$layers/none" "$other"
    mount -o remount,bind,ro "$other"
done
if [ -e /dev/kvm ]; then
    : >"$layers/no-kvm"
    mount --bind "$layers/no-kvm" /dev/kvm
    mount -o remount,bind,ro /dev/kvm
fi
shift 2
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
echo ready
exec env --ignore-signal=CHLD sleep infinity
"""
LIBVIRTD_CONF = """
unix_sock_dir = "{place}"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:{place}/libvirtd.log"
"""
# Machines are root's, disks stay their owners', and nothing else confines machines.
QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
# libvirtd looks for the user that its package would have made.
USERS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}
HOOKS = Path("/etc/libvirt/hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a program of the host ended with and said."""

    status: int
    stdout: str
    stderr: str


@dataclass(slots=True, kw_only=True)
class LibvirtHost:
    """A host; ``keeper`` is the process, by our number, that keeps its namespaces."""

    place: Path
    keeper: int
    daemon: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def uri(self) -> str:
        """What virsh connects to."""
        return f"qemu:///system?socket={self.place}/libvirt-sock"

    def file(self, path: str | Path) -> Path:
        """Return a file of the host's, by a name that leads to it from outside."""
        return Path(f"/proc/{self.keeper}/root{path}")

    def write(self, path: str | Path, content: str, *, mode: int = 0o644) -> None:
        """Write a file of the host's; its directories are made."""
        file = self.file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def forget(self, path: str | Path) -> None:
        """Remove a directory of the host's with all in it, if it is there."""
        shutil.rmtree(self.file(path), ignore_errors=True)

    def inside(self, *command: object) -> list[str]:
        """Return the command line that runs a command on the host."""
        nsenter = ["nsenter", f"--target={self.keeper}", "--mount", "--pid"]
        return [*nsenter, *map(str, command)]

    def run(self, *command: object, stdin: str = "") -> Said:
        """Run a command on the host to its end."""
        return run(self.inside(*command), stdin=stdin)

    def virsh_command(self, *arguments: object) -> list[str]:
        """Return the command line that asks the daemon for something."""
        return ["virsh", "--quiet", "--connect", self.uri, *map(str, arguments)]

    def virsh(self, *arguments: object) -> Said:
        """Run virsh to its end."""
        return run(self.virsh_command(*arguments))

    def does(self, *arguments: object) -> str:
        """Run virsh, which must succeed, and return what it printed."""
        said = self.virsh(*arguments)
        assert said.status == 0, said.stderr + self.log()
        return said.stdout

    def log(self) -> str:
        """Return what the daemon logged."""
        return (self.place / "libvirtd.log").read_text(errors="replace")

    def start_daemon(self, *before: str) -> None:
        """Start the daemon, by the commands that go before it; wait for its answer."""
        daemon = self.inside(*before, require_program("libvirtd"))
        with (self.place / "libvirtd.out").open("ab") as output:
            self.daemon = subprocess.Popen(daemon, stdout=output, stderr=output)
        wait_until(lambda: self._answers() or self._has_ended())
        assert self._answers(), self.log()

    def _answers(self) -> bool:
        return self.virsh("version").status == 0

    def _has_ended(self) -> bool:
        return self.daemon is None or self.daemon.poll() is not None

    def tell_daemon(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self.daemon is not None
        for pid in children(self.daemon.pid):
            os.kill(pid, number)

    def end_daemon(self) -> None:
        """End the daemon and wait for it; machines go on."""
        if self.daemon is not None:
            self.tell_daemon(signal.SIGTERM)
            self.daemon.wait()
            self.daemon = None

    def processes(self, *words: str) -> list[int]:
        """Return those of the host whose arguments hold these words, by our numbers."""
        return [
            pid for pid in self._all() if all(word in arguments(pid) for word in words)
        ]

    def _all(self) -> Iterator[int]:
        """Yield every process in the host's namespace of them."""
        namespace = namespace_of(self.keeper)
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and namespace_of(int(entry)) == namespace:
                yield int(entry)


def run(command: Sequence[str], *, stdin: str = "") -> Said:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return Said(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for what comes sooner or later."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def arguments(pid: int) -> list[str]:
    """Return the arguments of a process; of one that has ended, none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def namespace_of(pid: int) -> str | None:
    """Return the name of a process's namespace of processes, None if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


@contextmanager
def libvirt_host(
    place: Path,
    *,
    cache: Path,
    number: int = 1,
    binds: Sequence[tuple[Path, Path]] = (),
) -> Iterator[LibvirtHost]:
    """Yield a host without a daemon yet, whose socket and log are in ``place``.

    It sees what is mounted when it begins. ``cache`` keeps what libvirt finds out about
    QEMU, for the next host. Each of ``binds`` is a directory and the one in whose place
    the host has it. ``number`` tells hosts apart that are to migrate.

    :raises Unavailable: when a program, a right or overlayfs is missing.
    """
    if os.geteuid() != 0:
        raise Unavailable("a libvirt host takes root")
    for program in ("libvirtd", "virsh", "qemu-system-x86_64", "unshare", "nsenter"):
        require_program(program)
    layers = place / "layers"
    layers.mkdir()
    unshare = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    bound = [str(path) for pair in binds for path in pair]
    with subprocess.Popen(
        [
            *("setpriv", "--pdeathsig=KILL", "unshare", *unshare),
            *("sh", "-ec", SETUP, "sh", str(layers), str(cache), *bound),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        host = None
        try:
            host = made(process, place, number=number)
            yield host
        finally:
            process.kill()
            if host is not None and host.daemon is not None:
                host.daemon.wait()


def made(process: subprocess.Popen[str], place: Path, *, number: int) -> LibvirtHost:
    """Return the host once it is there, configured."""
    assert process.stdout and process.stderr
    if process.stdout.readline() != "ready\n":
        raise Unavailable(process.stderr.read().strip())
    (keeper,) = children(process.pid)
    host = LibvirtHost(place=place, keeper=keeper)
    uuid = f"11111111-2222-4333-8444-{number:012}"
    host.write(
        "/etc/libvirt/libvirtd.conf", LIBVIRTD_CONF.format(place=place, uuid=uuid)
    )
    host.write("/etc/libvirt/qemu.conf", QEMU_CONF)
    for name, line in USERS.items():
        users = host.file(f"/etc/{name}").read_text()
        if "libvirt-qemu:" not in users:
            host.write(f"/etc/{name}", users + line)
    return host
