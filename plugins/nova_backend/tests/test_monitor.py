"""How the backend gets into nova-compute, and when it doesn't.

These tests load it as nova-compute does: Nova's own `MonitorHandler` finds the entry
points of everything that is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nova.conf
import pytest
from nova.compute import monitors
from nova.virt.libvirt import imagebackend

from allocpolicy_nova_backend import tested
from allocpolicy_nova_backend.image import PolicyQcow2

CONF = nova.conf.CONF


@pytest.fixture(autouse=True)
def nova_compute(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test does to Nova."""
    monkeypatch.setattr(imagebackend.Backend, "backend", imagebackend.Backend.backend)
    yield
    CONF.clear_override("compute_monitors")


def started(*compute_monitors: str) -> list[str]:
    """Start what nova-compute starts; return the classes of its monitors."""
    CONF.set_override("compute_monitors", list(compute_monitors))
    tracker = SimpleNamespace(driver=None)
    return [type(one).__module__ for one in monitors.MonitorHandler(tracker).monitors]


def chosen() -> type:
    """Return Nova's class of qcow2 disks."""
    found: type = imagebackend.Backend(use_cow=True).backend("qcow2")
    return found


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "allocpolicy" in one.name]


@pytest.mark.parametrize("listed", [(), ("virt_driver",), ("cpu.virt_driver",)])
def test_it_is_off_unless_it_is_listed(
    listed: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    started(*listed)
    assert chosen() is imagebackend.Qcow2
    assert not told(caplog)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "name", ["allocpolicy", "cpu.allocpolicy", "nova.compute.monitors.cpu.allocpolicy"]
)
def test_it_is_on_if_it_is_listed(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line says so; nothing says that a monitor failed."""
    caplog.set_level(logging.INFO)
    started(name)
    assert chosen() is PolicyQcow2
    assert len(told(caplog)) == 1
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_backends_that_are_there_already_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver makes its backend before monitors are loaded."""
    backend = imagebackend.Backend(use_cow=True)
    started("cpu.allocpolicy")
    assert backend.backend("qcow2") is PolicyQcow2
    assert backend.backend("default") is PolicyQcow2
    assert backend.backend("raw") is imagebackend.Flat


def test_novas_own_monitor_works_beside_it() -> None:
    """It measures nothing itself, and takes nobody's place."""
    assert started("cpu.allocpolicy", "cpu.virt_driver") == [
        "nova.compute.monitors.cpu.virt_driver"
    ]


def test_another_nova_works_as_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names it, and those that it was tested with."""
    metadata = tmp_path / "nova-99.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: nova\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    started("cpu.allocpolicy")
    assert chosen() is imagebackend.Qcow2
    (line,) = told(caplog)
    assert "Nova 99.0" in line
    assert all(version in line for version in tested.VERSIONS)


def test_a_wrong_configuration_leaves_nova_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OS_ALLOCPOLICY__ON_UNSUPPORTED", "faill")
    started("cpu.allocpolicy")
    assert chosen() is imagebackend.Qcow2
    (line,) = told(caplog)
    assert "faill" in line


def test_the_documentation_names_each_version() -> None:
    words = Path(__file__).parents[1].joinpath("README.md").read_text().split()
    named = {word.rstrip(".,") for word in words}
    assert set(tested.VERSIONS) <= named
