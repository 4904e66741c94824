"""The Debian packages: built from the source, and tested where they are installed.

debian/tests are the tests of autopkgtest: here they run by its commands, in a copy of
this machine.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.box import Box, box
from tests.packaging.conftest import ROOT, run

DEBIAN = ROOT / "debian"
SOURCE = "/build/allocpolicy"
APT = ("apt-get", "-q", "-y", "--no-install-recommends")

# name, and what it needs, of each test in debian/tests/control
TESTS = re.findall(
    r"^Tests: (\S+)\nDepends: (.*)$",
    (DEBIAN / "tests/control").read_text(),
    re.MULTILINE,
)

HOOK = "/etc/libvirt/hooks/qemu.d/50-allocpolicy"
OLD = (DEBIAN / "changelog").read_text().split("(")[1].split(")")[0]
NEW = f"{OLD}.1"

# The packages of the next version: the same files, and its number.
_NEXT = f"""
mkdir /build/next
for package in allocpolicy python3-allocpolicy; do
    dpkg-deb --raw-extract "/build/$package"_{OLD}_all.deb /build/raw
    sed -i 's/{OLD}/{NEW}/' /build/raw/DEBIAN/control
    initial=/build/raw/usr/lib/python3/dist-packages/allocpolicy/__init__.py
    [ ! -e $initial ] || sed -i 's/^__version__ = .*/__version__ = "{NEW}"/' $initial
    dpkg-deb --root-owner-group --build /build/raw /build/next/
    rm -r /build/raw
done
"""
_IN_USE = f"""
mkdir -p {Path(HOOK).parent} /var/tmp/kept
allocpolicy libvirt install-hook --on-missing fail
echo PATHS=/srv/ours >/etc/default/allocpolicy
touch /run/allocpolicy/allocpolicy-kept
cd /var/tmp/kept
qemu-img create -q -f vmdk base.vmdk 8M
for strategy in none space; do
    allocpolicy -q provision $strategy.qcow2 --base base.vmdk --strategy $strategy
done
"""
_LOOK = f"""
cd /var/tmp/kept
sha256sum *.* /etc/default/allocpolicy
getfattr -d *.qcow2
allocpolicy cache list . -f json
stat -c %i /run/allocpolicy/allocpolicy-kept
grep -o '"on_missing": "[a-z]*"' {HOOK}
"""
_OUT_OF_USE = """
allocpolicy libvirt uninstall-hook
rm -r /var/tmp/kept
cp /build/allocpolicy/debian/allocpolicy.default /etc/default/allocpolicy
"""

on_debian = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("apt-get") is None,
    reason="packages are installed by root, on Debian",
)


def build_depends() -> str:
    """Return what debian/control says that a build needs, in one line."""
    control = (DEBIAN / "control").read_text()
    listed = control.split("Build-Depends:")[1].split("Standards-Version:")[0]
    return " ".join(listed.split()).removesuffix(",")


def needed() -> list[str]:
    """Return the packages that the build's own tools and the tests are in."""
    by_tests = {name for _, needs in TESTS for name in needs.split(", ")}
    return ["dpkg-dev", "lintian", *sorted(by_tests - {"allocpolicy"})]


@pytest.fixture(scope="module")
def built_box(
    source_files: set[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """Give a copy of the machine in which the packages were built, as on any other."""
    source = tmp_path_factory.mktemp("source")
    for name in source_files:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    with box(tmp_path_factory.mktemp("box")) as made:
        made.put(source, into=SOURCE)
        made.run("apt-get", "update", "-q")
        # all in one go, which takes half as long
        made.run(*APT, "satisfy", f"{build_depends()}, {', '.join(needed())}")
        # a build that asks the network would fail
        build = ("dpkg-buildpackage", "-us", "-uc")
        made.run("unshare", "--net", *build, cwd=SOURCE)
        yield made


@pytest.fixture(scope="module")
def installed(built_box: Box) -> Box:
    """Give one with the packages."""
    built_box.run("sh", "-c", f"{' '.join(APT)} install /build/*.deb")
    built_box.run("sh", "-euc", _NEXT)
    return built_box


def test_the_version_is_that_of_the_source() -> None:
    """A release of the source is one of the packages."""
    source = (ROOT / "allocpolicy/__init__.py").read_text()
    version = re.search(r'^__version__ = "(.*)"$', source, re.MULTILINE)
    assert version is not None
    assert (DEBIAN / "changelog").read_text().startswith(f"allocpolicy ({version[1]}) ")


def test_the_private_oslo_utils_is_that_of_the_lower_bound(tmp_path: Path) -> None:
    """It is what `tox -e lowest` tests, unchanged: debian/README.source."""
    bounds = runpy.run_path(str(ROOT / "tools/lower_bounds.py"))["lower_bounds"]
    wanted = f"oslo.utils=={bounds(ROOT / 'setup.cfg')['oslo.utils']}"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target")
    run(*pip, tmp_path, wanted, cwd=tmp_path)
    copied = [*(DEBIAN / "oslo.utils").rglob("*.py")]
    assert copied
    for path in copied:
        original = tmp_path / path.relative_to(DEBIAN / "oslo.utils")
        assert path.read_bytes() == original.read_bytes(), path


def test_scripts_have_no_mistakes(tmp_path: Path) -> None:
    """Those that run as root when a package is installed, and those that test it."""
    texts = {path: path.read_bytes() for path in DEBIAN.rglob("*") if path.is_file()}
    scripts = [path for path, text in texts.items() if text.startswith(b"#!/bin/sh")]
    assert len(scripts) > 5
    run("shellcheck", *scripts, cwd=tmp_path)


@on_debian
def test_lintian_finds_no_error(built_box: Box) -> None:
    """Nor a warning."""
    changes = built_box.run("sh", "-c", "echo /build/*.changes").strip()
    built_box.run("lintian", "--fail-on", "error,warning", changes)


@on_debian
def test_an_upgrade_and_a_downgrade_leave_what_is_there(installed: Box) -> None:
    """Disks, stamps, a cache, a lock, what the operator wrote; the hook is renewed."""
    installed.run("sh", "-euxc", _IN_USE)
    before = installed.run("sh", "-euc", _LOOK)
    assert f'"{OLD}"' in installed.run("cat", HOOK)
    for version, place in ((NEW, "/build/next"), (OLD, "/build")):
        installed.run("sh", "-c", f"dpkg --install {place}/*.deb")
        assert installed.run(HOOK, "--version").strip() == version
        assert f'"{version}"' in installed.run("cat", HOOK)
        assert installed.run("sh", "-euc", _LOOK) == before
    installed.run("sh", "-euc", _OUT_OF_USE)


@on_debian
def test_the_timer_goes_on_after_an_upgrade_and_ends_with_a_removal(
    installed: Box,
) -> None:
    """No script stops it before an upgrade, as none would start it again."""
    listed = installed.run("dpkg-query", "--control-list", "allocpolicy").split()
    scripts = {
        name: installed.run("dpkg-query", "--control-show", "allocpolicy", name)
        for name in listed
        if name in {"preinst", "postinst", "prerm", "postrm"}
    }
    stopping = [name for name, text in scripts.items() if "invoke stop" in text]
    assert stopping == ["prerm"]
    assert 'if [ "$1" = remove ]; then' in scripts["prerm"]
    assert "try-restart 'allocpolicy-audit.timer'" in scripts["postinst"]
    assert "systemctl --system daemon-reload" in scripts["postinst"]


@on_debian
@pytest.mark.parametrize("name", [name for name, _ in TESTS])
def test_the_installed_package(installed: Box, name: str) -> None:
    """What debian/tests state, in their order: the last one removes it."""
    installed.run(f"debian/tests/{name}", cwd=SOURCE)
