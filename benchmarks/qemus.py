"""The QEMUs that we are held to: the installed one, and that of Debian's backports.

The newer one is not installed: its package is unpacked into a cache directory, and its
programs run from there with the libraries of the system.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import output, say

_PACKAGE = "qemu-utils"
# apt as it is configured, but with lists and sources in a directory of its own
_CONFIGURATION = """\
Dir::Etc::sourcelist "{place}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{place}/lists";
Dir::Cache "{place}/cache";
APT::Sandbox::User "root";
"""


class Unavailable(Exception):
    """The newer QEMU can't be had here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qemu:
    """QEMU's programs of one version; ``prefix`` is what their names follow."""

    version: str
    prefix: str = ""
    label: str = ""

    def named(self, contender: str) -> str:
        """Return a contender's name with the version in it, if it isn't installed."""
        return f"{contender}, {self.label}" if self.label else contender

    def line(self, line: str) -> str:
        """Return a command line of one of QEMU's programs, run in this version."""
        return self.prefix + line

    def lines(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Return command lines, run in this version."""
        return tuple(self.line(line) for line in lines)


def installed() -> Qemu:
    """Return the QEMU that is on the PATH."""
    return Qemu(version=_version(""))


def found(*, newer: bool = True) -> list[Qemu]:
    """Return the installed QEMU and, where apt has it, that of the backports."""
    qemus = [installed()]
    if newer:
        try:
            qemus.append(backported(_cache_directory()))
        except (Unavailable, OSError) as error:
            say(f"no newer QEMU is measured: {error}")
    return qemus


def backported(cache: Path) -> Qemu:
    """Return QEMU from the backports, unpacked into the cache where it isn't yet.

    :raises Unavailable: with what is missing.
    """
    place = next(cache.glob(f"{_PACKAGE}_*/"), None) or _unpack(cache)
    prefix = f"{place}/usr/bin/"
    try:
        version = _version(prefix)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"qemu-img doesn't start: {error.stderr.strip()}") from error
    return Qemu(version=version, prefix=prefix, label=f"QEMU {version}")


def _version(prefix: str) -> str:
    text = output(f"{prefix}qemu-img --version", directory=Path("/"))
    told = re.search(r"version (\d+(\.\d+)+)", text)
    assert told, text
    return told.group(1)


def _cache_directory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "allocpolicy-benchmarks"


def _unpack(cache: Path) -> Path:
    """Download the package and unpack it below the cache: all of it, or nothing."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is missing, which has Debian's packages")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        work = Path(directory)
        suite = _suite()
        environment = _configured(work, suite)
        try:
            _run("apt-get -qq update", work, environment)
            _run(f"apt-get -qq -t {suite} download {_PACKAGE}", work, environment)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"apt has none in {suite}: {error.stderr}") from error
        (package,) = work.glob(f"{_PACKAGE}_*.deb")
        _run(f"dpkg-deb -x {package.name} unpacked", work, environment)
        place = cache / re.sub(r"_\d+%3a", "_", package.stem)
        (work / "unpacked").rename(place)
    return place


def _suite() -> str:
    name = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if not name:
        raise Unavailable("this system doesn't say which release of Debian it is")
    return f"{name}-backports"


def _configured(work: Path, suite: str) -> Mapping[str, str]:
    """Write apt's configuration for the suite; return the environment for it."""
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "apt.conf").write_text(_CONFIGURATION.format(place=work))
    (work / "sources.list").write_text("".join(_sources(suite)))
    return os.environ | {"APT_CONFIG": str(work / "apt.conf")}


def _sources(suite: str) -> Iterator[str]:
    """Yield the suite's lines for the places that apt has the release itself from."""
    release = suite.removesuffix("-backports")
    shown = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", shown, "Created-By: Packages"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in dict.fromkeys(told.splitlines()):
        place, *rest = line.split()
        if rest in ([release, "main"], [suite, "main"]):
            yield f"deb {place} {suite} main\n"


def _run(line: str, directory: Path, environment: Mapping[str, str]) -> None:
    output(line, directory=directory, environment=environment)
