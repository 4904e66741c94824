"""The hook's file: a sh script that starts Python for three operations, and no other.

libvirt runs it for every operation of a VM (docs/hooks.rst). It ends at once for all
but three, before anything that can fail: a hook that fails at ``reconnect`` kills a VM
that runs. Its output goes nowhere, as it would become the domain's XML at ``migrate``
and ``restore``.

Python is started by /usr/bin/env, as a program in /usr/bin leaves the AppArmor profile
of libvirtd (``/usr/bin/* PUx`` in libvirt's src/security/apparmor).
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from enum import StrEnum

from allocpolicy.record import asdict, dataclass
from allocpolicy.wording import printable

MARK = "# allocpolicy-hook "  #: how the second line of such a file begins
_LONGEST_PATH = 150  # characters of a path, in a line that has 300
ASKS_VERSION = "--version"  #: the only argument with which the file tells its version


class OnMissing(StrEnum):
    """What becomes of a VM when the hook can't start Python, or import allocpolicy."""

    PASS = "pass"  # noqa: S105  (no password)  #: it starts, without its policy
    FAIL = "fail"  #: it doesn't start


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that such a file holds; its content follows from it."""

    version: str  #: that of allocpolicy
    interpreter: str  #: Python's path
    stdlib: str  #: a module of its standard library: another Python has another
    package: str  #: a module of allocpolicy
    paths: tuple[str, ...]  #: sys.path, beyond the standard library
    #: Python finds these paths itself, and executes .pth files, which takes longer
    site: bool
    on_missing: OnMissing  #: what becomes of a VM where one of them is missing

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths whose files run as root."""
        return self.interpreter, self.stdlib, self.package, *self.paths


def content(settings: Settings) -> bytes:
    """Return the content of the file."""
    described = json.dumps(asdict(settings))
    text = _SCRIPT.format(
        mark=MARK,
        settings=described,
        checks="\n".join(_checks(settings)),
        outcome=_OUTCOMES[settings.on_missing],
        end=_ENDS[settings.on_missing],
        command=shlex.join(command(settings)),
    )
    return os.fsencode(text)


def _checks(settings: Settings) -> Iterator[str]:
    """Yield a command for each file that must be there, or was replaced by another."""
    yield _check("-x", settings.interpreter, otherwise="is missing")
    # After a power cut during an upgrade a file may be empty; an empty interpreter is
    # a script that has nothing to do for env(1), and succeeds.
    for path in (settings.interpreter, settings.stdlib, settings.package):
        yield _check("-s", path, otherwise="is empty")
        yield _check("-f", path, otherwise="is missing")


def _check(condition: str, path: str, *, otherwise: str) -> str:
    name = printable(path)
    shown = name if len(name) <= _LONGEST_PATH else f"…{name[-_LONGEST_PATH:]}"
    wrong = shlex.quote(f"{shown} {otherwise}")
    return f"[ {condition} {shlex.quote(path)} ] || wrong={wrong}"


def command(settings: Settings) -> list[str]:
    """Return the command that the hook's arguments are added to."""
    flags = ["-I"] if settings.site else ["-I", "-S"]
    code = _PYTHON.format(
        paths=ascii([] if settings.site else list(settings.paths)),
        outcome=_OUTCOMES[settings.on_missing],
        status=0 if settings.on_missing is OnMissing.PASS else _UNEXPECTED,
    )
    python = [settings.interpreter, *flags, "-c", code]
    if "=" in settings.interpreter:  # env(1) would take it for a variable
        python = ["/bin/sh", "-c", 'exec "$0" "$@"', *python]
    return ["/usr/bin/env", *python]


def settings_of(given: bytes) -> Settings | None:
    """Return the settings in the content of such a file; None when they can't be read.

    They are what the file says of itself: `content` tells whether it is unchanged.
    """
    try:
        line = given.splitlines()[3].removeprefix(b"# ")
        found = json.loads(line)
        found["on_missing"] = OnMissing(found["on_missing"])
        found["paths"] = tuple(found["paths"])
        return Settings(**found)
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def is_ours(given: bytes) -> bool:
    """Return whether the file was made by allocpolicy, of whatever version."""
    lines = given.splitlines()
    return len(lines) > 1 and lines[1].startswith(MARK.encode())


_OUTCOMES = {
    OnMissing.PASS: "it starts without its policy",
    OnMissing.FAIL: "it is not started",
}
_UNEXPECTED = 5  # the exit status of what is neither the request's fault nor storage's
_ENDS = {
    OnMissing.PASS: "exit 0",
    OnMissing.FAIL: f"""printf '%s\\n' "$said" >&2; exit {_UNEXPECTED}""",
}

_SCRIPT = """\
#!/bin/sh
{mark}1: made by "allocpolicy libvirt install-hook", which replaces what is
# changed here, and removed by "allocpolicy libvirt uninstall-hook".
# {settings}
# shellcheck disable=SC1003,SC2016  # what is quoted is meant as it is
case "${{2-}} ${{3-}}" in
"prepare begin" | "migrate begin" | "restore begin") exec >/dev/null ;;
*) [ "$#:${{1-}}" = 1:--version ] || exit 0 ;;
esac
wrong=
{checks}
if [ -n "$wrong" ]; then
    said="allocpolicy: $wrong: run 'allocpolicy libvirt install-hook'"
    [ $# -gt 1 ] || {{ printf '%s\\n' "$said" >&2; exit 5; }}
    told="$said; domain $1: {outcome}"
    /usr/bin/logger -t allocpolicy -p daemon.err -- "$told" </dev/null 2>/dev/null
    {end}
fi
exec {command} "$@"
"""

# What is imported may be gone, or not fit this Python: that is told as missing, too.
_PYTHON = """\
import sys
sys.path += {paths}
try:
    from allocpolicy.libvirt.entry import run
    if len(sys.argv) < 3:  # what a start of a VM needs besides
        import allocpolicy, allocpolicy.libvirt.start
except Exception as error:
    import syslog
    said = f"allocpolicy: it can't be imported: {{type(error).__name__}}: {{error}}"
    said = " ".join(said.split())[:200] + "; see 'allocpolicy libvirt status'"
    if len(sys.argv) > 2:
        told = f"{{said}}; domain {{sys.argv[1]}}: {outcome}"
        syslog.openlog("allocpolicy", 0, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_ERR, told)
        if not {status}:
            sys.exit()
    print(said, file=sys.stderr)
    sys.exit(5)
if len(sys.argv) < 3:
    print(allocpolicy.__version__)
    sys.exit()
run()
"""
