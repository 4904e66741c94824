"""Whether the hook is in force: its file, its Python, and libvirt's daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from allocpolicy.errors import Error
from allocpolicy.libvirt import confinement, daemon, installation, launch, stub
from allocpolicy.libvirt.apparmor_rules import Execution
from allocpolicy.libvirt.confinement import (
    AppArmor,
    Confinement,
    Enforcement,
    Mode,
    SELinux,
)
from allocpolicy.libvirt.daemon import Daemon
from allocpolicy.libvirt.installation import DIRECTORY, NAME, Installed
from allocpolicy.libvirt.stub import OnMissing, Settings
from allocpolicy.record import dataclass
from allocpolicy.wording import shell_word

_NO_DAEMON = "it is known while the daemon runs"


class State(StrEnum):
    """What was found of one thing that the hook needs."""

    OK = "ok"  #: it is as it must be
    WRONG = "wrong"  #: it is not
    UNKNOWN = "unknown"  #: it can't be known


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the hook needs."""

    subject: str  #: what was looked at
    state: State  #: how it is
    reason: str  #: why, and what to do


def is_in_force(found: Sequence[Finding]) -> bool:
    """Return whether nothing is wrong, and the daemon is known to run the hook."""
    return all(
        one.state is State.OK
        or (one.state is State.UNKNOWN and one.subject != "daemon")
        for one in found
    )


def findings(directory: Path) -> Iterator[Finding]:
    """Yield what the hook in a directory needs to be in force, and how that is."""
    try:
        found = installation.read(directory)
    except Error as error:
        yield _wrong("hook", str(error))
        return
    if found is None:
        yield _wrong("hook", f"there is no {directory / NAME}: {_again(directory)}")
        return
    yield _file(found, path=directory / NAME)
    yield _python(found, path=directory / NAME)
    yield _trust(found, directory=directory)
    try:
        running = daemon.running(directory)
    except PermissionError:
        yield _unknown("daemon", "only root can tell whether it knows of the hook")
        return
    again = _again(directory, found.settings, more=" --reload")
    yield from _daemons(running, hook=directory / NAME, again=again)
    processes: list[int | None] = [one.pid for one in running]
    for process in processes or [None]:
        yield from confined(confinement.look(process, hook=directory / NAME))


def _again(directory: Path, settings: Settings | None = None, *, more: str = "") -> str:
    """Return how the hook is installed anew, as it was said to be."""
    said = ""
    if directory != DIRECTORY:
        said += f" --hooks-directory {shell_word(directory)}"
    if settings is not None and settings.on_missing is not OnMissing.PASS:
        said += f" --on-missing {settings.on_missing}"
    return f"run 'allocpolicy libvirt install-hook{said}{more}'"


def _file(found: Installed, *, path: Path) -> Finding:
    settings = found.settings
    again = _again(path.parent, settings)
    if not found.executable:
        return _wrong("hook", f"{path} is not executable: {again}")
    if settings is None or stub.content(settings) != found.content:
        return _wrong("hook", f"{path} was changed, or is of another version: {again}")
    try:
        today = launch.settings(on_missing=settings.on_missing)
    except Error as error:
        return _wrong("hook", str(error))
    if today != settings:
        return _wrong("hook", f"{_difference(settings, today)}: {again}")
    missing = f"where Python or allocpolicy is missing: {settings.on_missing}"
    return _ok("hook", f"{path}, allocpolicy {settings.version}, {missing}")


def _difference(settings: Settings, today: Settings) -> str:
    if settings.version != today.version:
        return f"it is of allocpolicy {settings.version}, not {today.version}"
    if settings.interpreter != today.interpreter:
        return f"it starts {settings.interpreter}, not {today.interpreter}"
    return "where modules are found has changed since it was made"


def _python(found: Installed, *, path: Path) -> Finding:
    """Run the file as it is, up to the hook's own code."""
    if not found.executable:
        return _wrong("python", f"{path} can't be run")
    try:
        installation.refuse_distrusted(path)  # what others wrote isn't run
        version = launch.run([str(path), stub.ASKS_VERSION]).strip()
    except Error as error:
        return _wrong("python", str(error))
    interpreter = found.settings.interpreter if found.settings else "it"
    return _ok("python", f"{interpreter} runs allocpolicy {version}")


def _trust(found: Installed, *, directory: Path) -> Finding:
    paths = [str(directory / NAME), *(found.settings.files if found.settings else ())]
    try:
        installation.refuse_distrusted(*paths)
    except Error as error:
        return _wrong("trust", str(error))
    return _ok("trust", "only root can change what libvirt runs")


def _daemons(found: Sequence[Daemon], *, hook: Path, again: str) -> Iterator[Finding]:
    if not found:
        reason = "none runs that sees this directory; it looks when it starts"
        yield _ok("daemon", reason)
    for one in found:
        yield _daemon(one, hook=hook, again=again)


def _daemon(found: Daemon, *, hook: Path, again: str) -> Finding:
    subject = f"{found.name}, process {found.pid}"
    if (why := daemon.knows(found, hook)) is not None:
        return _ok("daemon", f"{subject}: {why}")
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.started))
    reason = (
        f"{subject}: it runs since {started}, longer than the hook is there, and looked"
        f" for hooks since only if it was told to: {again}"
    )
    return _unknown("daemon", reason)


def confined(found: Confinement) -> Iterator[Finding]:
    """Yield whether the daemon may run the hook, and the hook do its work."""
    yield _apparmor(found.apparmor)
    yield _selinux(found.selinux)
    lacks = " and ".join(found.lacks or ())
    if found.lacks is None:
        yield _unknown("capabilities", _NO_DAEMON)
    elif "CAP_SETUID" in found.lacks and "CAP_LEASE" in found.lacks:
        reason = f"it lacks {lacks}: disks of other owners can't be rewritten"
        yield _wrong("capabilities", reason)
    else:
        yield _ok("capabilities", f"it lacks {lacks}" if lacks else "it has all")


def _apparmor(found: AppArmor) -> Finding:
    said = f"{found.mode.value}: {found.profile}" if found.profile else found.mode.value
    if found.mode is Mode.UNKNOWN:
        return _unknown("apparmor", _NO_DAEMON)
    if found.remedy is not None:
        return _wrong("apparmor", f"{said}: {found.remedy}")
    if found.confines and Execution.UNKNOWN in (found.hook, found.env):
        return _unknown("apparmor", f"{said}: its rules can't be read")
    return _ok("apparmor", said)


def _selinux(found: SELinux) -> Finding:
    if found.enforcement is Enforcement.UNKNOWN:
        return _unknown("selinux", "it can't be read")
    if found.remedy is None:
        return _ok("selinux", found.enforcement.value)
    state = State.WRONG if found.hooks_unconfined is False else State.UNKNOWN
    return Finding(subject="selinux", state=state, reason=found.remedy)


def _ok(subject: str, reason: str) -> Finding:
    return Finding(subject=subject, state=State.OK, reason=reason)


def _unknown(subject: str, reason: str) -> Finding:
    return Finding(subject=subject, state=State.UNKNOWN, reason=reason)


def _wrong(subject: str, reason: str) -> Finding:
    return Finding(subject=subject, state=State.WRONG, reason=reason)
