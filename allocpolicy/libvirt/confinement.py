"""How the daemon that runs the hook is confined: AppArmor, SELinux, capabilities.

Read from /proc, /sys and the profile's text; nothing is changed. What can't be read is
``UNKNOWN`` or None. A hook is executed within Debian's profile of libvirtd, and a
program of /usr/bin without it: so the hook's interpreter, wherever it is, is executed
by /usr/bin/env.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.libvirt import apparmor_rules
from allocpolicy.libvirt.apparmor_rules import Execution, Rules
from allocpolicy.record import dataclass
from allocpolicy.storage.credentials import Capability

ENV = Path("/usr/bin/env")
_PROFILE = re.compile(r"(?P<name>.+?)(?: \((?P<mode>[a-z]+)\))?$")
_BOOLEAN = "virt_hooks_unconfined"
# Of this domain some policies have no rule that the boolean would turn on.
_DOUBTFUL = "virtqemud_t"
_SEE = "if a start fails with exit status 126, see ausearch -m avc -ts recent"
_LARGEST = 1 << 20  # bytes of a file that is read


class Mode(enum.Enum):
    """What AppArmor does about the daemon; words for people and documents."""

    #: the kernel has no AppArmor, or it is off
    OFF = "off"
    UNCONFINED = "unconfined"
    #: what the rules don't allow is refused
    ENFORCE = "enforce"
    #: it is logged only
    COMPLAIN = "complain"
    #: the process is killed for it
    KILL = "kill"
    UNKNOWN = "unknown"


class Enforcement(enum.Enum):
    """What SELinux does; words for people and documents."""

    OFF = "off"
    PERMISSIVE = "permissive"
    ENFORCING = "enforcing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppArmor:
    """The daemon's profile, and how its rules let programs be executed.

    ``rules``: the file that has them. ``hook``, ``env``: the hook's file, and
    /usr/bin/env. ``missing``: rules without which the hook can't work.
    """

    mode: Mode
    profile: str | None = None
    rules: Path | None = None
    hook: Execution = Execution.UNKNOWN
    env: Execution = Execution.UNKNOWN
    missing: tuple[str, ...] = ()

    @property
    def confines(self) -> bool:
        """Return whether its rules are enforced on the daemon."""
        return self.mode in (Mode.ENFORCE, Mode.KILL)

    @property
    def remedy(self) -> str | None:
        """Return what to do before the hook can work, or None."""
        if not self.confines or self.rules is None or not self.missing:
            return None
        return (
            f"add to /etc/apparmor.d/local/{self.rules.name}: {' '.join(self.missing)}"
            f" and run: apparmor_parser -r {self.rules}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SELinux:
    """What SELinux does, the daemon's domain, and the boolean about its hooks.

    ``hooks_unconfined``: virt_hooks_unconfined; None: the policy has none, or it can't
    be read.
    """

    enforcement: Enforcement
    domain: str | None = None
    hooks_unconfined: bool | None = None

    @property
    def remedy(self) -> str | None:
        """Return what to do before the hook can work, or if it doesn't, or None."""
        if self.enforcement is not Enforcement.ENFORCING:
            return None
        if self.hooks_unconfined is None:
            return f"it has no boolean {_BOOLEAN} here, or it can't be read: {_SEE}"
        if not self.hooks_unconfined:
            return f"run: setsebool -P {_BOOLEAN} on"
        if self.domain == _DOUBTFUL:
            return f"{_BOOLEAN} is on, which not every policy heeds for it: {_SEE}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How the running daemon is confined.

    ``lacks``: capabilities that leases on the disks of others take, and that the
    daemon's children can't have; None: unknown.
    """

    apparmor: AppArmor
    selinux: SELinux
    lacks: tuple[str, ...] | None = None


def look(pid: int | None, *, hook: Path, root: Path = Path("/")) -> Confinement:
    """Return how the running daemon is confined.

    :param pid: its process; None: it doesn't run.
    :param hook: the installed file.
    :param root: where /proc, /sys and /etc are.
    """
    place = root / "proc" / str(pid) if pid is not None else None
    return Confinement(
        apparmor=_apparmor(root, place, hook=hook),
        selinux=_selinux(root, place),
        lacks=_lacking(place),
    )


def profile_of(label: str) -> tuple[str | None, Mode]:
    """Return the profile and its mode in the text of /proc/PID/attr/current."""
    match = _PROFILE.match(label.strip("\0\n"))
    if match is None:
        return None, Mode.UNKNOWN
    if match["name"] == "unconfined":
        return None, Mode.UNCONFINED
    known = {mode.value: mode for mode in Mode}
    return match["name"], known.get(match["mode"] or "", Mode.UNKNOWN)


def domain_of(label: str) -> str | None:
    """Return the type in a SELinux context: ``virtqemud_t``."""
    fields = label.strip("\0\n").split(":")
    return fields[2] if len(fields) > 3 else None


def _apparmor(root: Path, process: Path | None, *, hook: Path) -> AppArmor:
    enabled = _text(root / "sys/module/apparmor/parameters/enabled")
    if enabled is None and not (root / "sys/module/apparmor").exists():
        return AppArmor(mode=Mode.OFF)
    if enabled is not None and enabled.strip() != "Y":
        return AppArmor(mode=Mode.OFF)
    label = _apparmor_label(process)
    if label is None:
        return AppArmor(mode=Mode.UNKNOWN)
    profile, mode = profile_of(label)
    file, rules = _rules(root, profile) if profile is not None else (None, None)
    if rules is None:
        return AppArmor(mode=mode, profile=profile)
    run, env = rules.execution(str(hook)), rules.execution(str(ENV))
    return AppArmor(
        mode=mode,
        profile=profile,
        rules=file,
        hook=run,
        env=env,
        missing=(
            *((f"{hook} rmix,",) if run is Execution.REFUSED else ()),
            *((f"{ENV} PUx,",) if env is not Execution.WITHOUT else ()),
        ),
    )


def _apparmor_label(process: Path | None) -> str | None:
    """Return the daemon's label; before Linux 5.8 AppArmor has no place of its own."""
    if process is None:
        return None
    label = _text(process / "attr/apparmor/current")
    return label if label is not None else _text(process / "attr/current")


def _rules(root: Path, profile: str) -> tuple[Path | None, Rules | None]:
    """Return the file that has the profile, and its rules."""
    place = root / "etc/apparmor.d"

    def included(name: str) -> tuple[str, ...]:
        return tuple(_texts(place / name.removeprefix("/etc/apparmor.d/")))

    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(place)):
            text = _text(place / name)
            if text is None or profile not in text:
                continue
            rules = apparmor_rules.parsed(text, profile=profile, included=included)
            if rules is not None:
                return Path("/etc/apparmor.d") / name, rules
    return None, None


def _selinux(root: Path, process: Path | None) -> SELinux:
    place = root / "sys/fs/selinux"
    enforce = _text(place / "enforce")
    if enforce is None:
        off = not (place / "enforce").exists()
        return SELinux(enforcement=Enforcement.OFF if off else Enforcement.UNKNOWN)
    label = _text(process / "attr/current") if process is not None else None
    # "current pending"
    boolean = (_text(place / "booleans" / _BOOLEAN) or "").split()
    return SELinux(
        enforcement=(
            Enforcement.ENFORCING if enforce.strip() == "1" else Enforcement.PERMISSIVE
        ),
        domain=domain_of(label) if label is not None else None,
        hooks_unconfined=boolean[0] == "1" if boolean else None,
    )


def _lacking(process: Path | None) -> tuple[str, ...] | None:
    status = _text(process / "status") if process is not None else None
    match = re.search(r"^CapBnd:\t([0-9a-f]+)$", status or "", re.MULTILINE)
    if match is None:
        return None
    needed = (Capability.CAP_LEASE, Capability.CAP_SETUID)
    return tuple(one.name for one in needed if not int(match[1], 16) >> one & 1)


def _texts(path: Path) -> Iterator[str]:
    """Yield the text of a file, or those of the files in a directory."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(path)):
                yield from _texts(path / name)
    elif (text := _text(path)) is not None:
        yield text


def _text(path: Path) -> str | None:
    """Return what a file says; None where it can't be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(_LARGEST).decode(errors="replace")
    return None
