"""A guest for tests: the host's kernel and busybox under QEMU, with disks attached.

The initramfs is in the newc format of the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst; it holds busybox, the
modules and an init which runs a shell script and says how it ended. Machines are
emulated (TCG): KVM may exist and hang.
"""

from __future__ import annotations

import functools
import lzma
import platform
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.filesystems import Unavailable, require_program
from tests.harness.patience import PATIENCE

BOOT = Path("/boot")
MODULES = Path("/lib/modules")
DEFAULT_MODULES = ("virtio_pci", "virtio_blk", "ext4")

STARTED = "guest: the script starts"
BOOT_TIMEOUT = PATIENCE  # two or three seconds on an idle machine
EXIT_STATUS = "guest: the script ended with status "
CONSOLE_TAIL = 30  # lines
# On a busy machine the kernel's test of the timer fails by chance (no_timer_check).
COMMAND_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check rdinit=/init"

# The script's output has a serial line of its own, so that no message of the kernel
# gets between. The line must be raw, or newlines become CR LF.
INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for serial in /sys/block/*/serial; do
    name=${{serial%/serial}}
    [ -s $serial ] && ln -s /dev/${{name##*/}} /dev/disk-$(cat $serial)
done
stty -F /dev/ttyS1 raw
echo "{STARTED}" >/dev/ttyS0
(cd /; sh /script) </dev/null >/dev/ttyS1 2>&1
echo "{EXIT_STATUS}$?" >/dev/ttyS1
poweroff -f
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDisk:
    """A disk of a guest, which sees it as ``/dev/disk-<serial>`` (20 bytes at most).

    The names are those of QEMU's -drive options. An error of a write, ENOSPC too, goes
    to the guest; QEMU's default would stop the machine.
    """

    path: Path
    format: str
    serial: str
    discard: str = "ignore"
    detect_zeroes: str = "off"
    cache: str = "none"
    readonly: bool = False

    def options(self) -> list[str]:
        """Return the options of QEMU's command line that attach it."""
        drive = {
            "if": "none",
            "id": self.serial,
            "file": str(self.path).replace(",", ",,"),
            "format": self.format,
            "discard": self.discard,
            "detect-zeroes": self.detect_zeroes,
            "cache": self.cache,
            "readonly": "on" if self.readonly else "off",
        }
        device = {"drive": self.serial, "serial": self.serial, "werror": "report"}
        return [
            *("-drive", comma_separated(drive)),
            *("-device", f"virtio-blk-pci,{comma_separated(device)}"),
        ]


class GuestFailed(Exception):
    """The script in the guest failed; ``status`` is None when it did not end."""

    def __init__(self, status: int | None, output: str, console: str) -> None:
        super().__init__(status, output, console)
        self.status = status
        self.output = output
        self.console = console

    def __str__(self) -> str:
        ended = "did not end" if self.status is None else f"ended with {self.status}"
        console = "\n".join(self.console.splitlines()[-CONSOLE_TAIL:])
        return f"the script {ended}\n-- output\n{self.output}\n-- console\n{console}"


def run_guest(
    script: str,
    *,
    disks: Sequence[GuestDisk],
    timeout: int = PATIENCE,
    modules: Sequence[str] = DEFAULT_MODULES,
) -> str:
    """Boot a guest, run a shell script in it, and return the script's output.

    The script has busybox's commands and an empty /mnt. ``timeout`` is seconds
    from when it starts.

    :raises GuestFailed: when the script's status is not 0, or it did not end in time.
    :raises Unavailable: when QEMU, busybox, a kernel or a module is missing.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as directory:
        place = Path(directory)
        initrd = write_initrd(place / "initrd", script=script, modules=modules)
        run_machine(place, initrd=initrd, disks=disks, timeout=timeout)
        console = read(place / "console")
        output, found, status = read(place / "output").rpartition(EXIT_STATUS)
    if not found:
        # Without the sentence there is only what the script wrote, after it.
        raise GuestFailed(None, status, console)
    if int(status) != 0:
        raise GuestFailed(int(status), output, console)
    return output


def write_initrd(
    path: Path, *, script: str, modules: Sequence[str] = DEFAULT_MODULES
) -> Path:
    """Write the initramfs of a guest that runs a script.

    :raises Unavailable: when busybox, a kernel or a module is missing.
    """
    # The kernel unpacks archives that follow one another.
    path.write_bytes(
        initramfs(tuple(modules)) + cpio([entry("script", script.encode())])
    )
    return path


def run_machine(
    place: Path, *, initrd: Path, disks: Sequence[GuestDisk], timeout: int
) -> None:
    """Run a machine until it powers off; its serial lines go to files."""
    command = [
        require_program("qemu-system-x86_64"),
        *("-accel", "tcg", "-machine", "q35", "-m", "256", "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{place}/console", "-serial", f"file:{place}/output"),
        *("-kernel", str(kernel()), "-initrd", str(initrd)),
        *("-append", COMMAND_LINE),
    ]
    for disk in disks:
        command += disk.options()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as machine:
        try:
            wait_for_start(machine, place / "console")
            _, said = machine.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            machine.kill()
            return
    if machine.returncode != 0:
        raise GuestFailed(None, "", f"qemu-system-x86_64: {said}")


def wait_for_start(machine: subprocess.Popen[str], console: Path) -> None:
    """Wait until the guest starts the script, or has ended, but not for ever."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    while machine.poll() is None and STARTED not in read(console):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@functools.cache
def kernel() -> Path:
    """Return the newest kernel in /boot whose modules are there.

    :raises Unavailable: when there is none.
    """
    if platform.machine() != "x86_64":
        raise Unavailable("the guest needs an x86_64 kernel")
    found = [
        path
        for path in BOOT.glob("vmlinuz-*")
        if (MODULES / version(path) / "modules.dep").exists()
    ]
    if not found:
        raise Unavailable(f"no kernel in {BOOT} that has modules in {MODULES}")
    return max(found, key=lambda path: path.stat().st_mtime)


def version(path: Path) -> str:
    return path.name.removeprefix("vmlinuz-")


@functools.cache
def initramfs(modules: tuple[str, ...]) -> bytes:
    """Return an archive of busybox, these modules and what they depend on."""
    entries = [entry(name, None) for name in ("bin", "dev", "mnt", "proc", "sys")]
    entries.append(entry("bin/busybox", busybox().read_bytes(), executable=True))
    entries.append(entry("init", INIT.encode(), executable=True))
    entries.append(entry("modules", None))
    order = []
    for path in with_dependencies(modules):
        order.append(module_name(path))
        entries.append(entry(f"modules/{order[-1]}", module_content(path)))
    entries.append(entry("modules/order", " ".join(order).encode()))
    return cpio(entries)


def busybox() -> Path:
    """Return busybox, linked statically.

    :raises Unavailable: when it is missing, or needs libraries.
    """
    path = Path(require_program("busybox"))
    if b"/ld-linux" in path.read_bytes():
        raise Unavailable(f"{path} is not static; Debian's package is busybox-static")
    return path


def with_dependencies(modules: Iterable[str]) -> list[Path]:
    """Return the files of modules in the order to load them, built-in ones left out.

    :raises Unavailable: when the kernel has no such module.
    """
    root = MODULES / version(kernel())
    built_in = {
        module_name(Path(line))
        for line in (root / "modules.builtin").read_text().splitlines()
    }
    dependencies = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        # modules.dep(5) lists the nearest first: the last has to be loaded first.
        dependencies[module_name(Path(path))] = [*reversed(needed.split()), path]
    ordered: dict[Path, None] = {}
    for module in modules:
        if module in built_in:
            continue
        if module not in dependencies:
            raise Unavailable(f"kernel {root.name} has no module {module}")
        ordered.update((root / path, None) for path in dependencies[module])
    return list(ordered)


def module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """Return a module as insmod takes it; distributions may ship it compressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        zstd = [require_program("zstd"), "-dc", str(path)]
        return subprocess.run(zstd, check=True, capture_output=True).stdout
    return path.read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A directory or file of an archive."""

    name: str
    mode: int
    content: bytes


def entry(name: str, content: bytes | None, *, executable: bool = False) -> Entry:
    """Return a file, or a directory where ``content`` is None."""
    if content is None:
        return Entry(name=name, mode=stat.S_IFDIR | 0o755, content=b"")
    mode = stat.S_IFREG | (0o755 if executable else 0o644)
    return Entry(name=name, mode=mode, content=content)


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive in the newc format."""
    trailer = Entry(name="TRAILER!!!", mode=0, content=b"")
    return b"".join(
        part
        for inode, item in enumerate([*entries, trailer], start=1)
        for part in cpio_parts(item, inode=inode)
    )


def cpio_parts(item: Entry, *, inode: int) -> Iterator[bytes]:
    """Yield the header with the name, and the content, both padded to 4 bytes."""
    name = item.name.encode() + b"\0"
    # c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_maj, c_min, c_rmaj,
    # c_rmin, c_namesize, c_chksum.
    numbers = (
        inode,
        item.mode,
        0,
        0,
        1,
        0,
        len(item.content),
        0,
        0,
        0,
        0,
        len(name),
        0,
    )
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    yield padded(header + name)
    yield padded(item.content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def comma_separated(options: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())
