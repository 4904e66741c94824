"""The limits that qemu-img runs under are ours, or those that we were given."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import cli, filesystems, images, ordinary_user
from tests.harness.images import MIB

pytestmark = pytest.mark.system


@pytest.fixture
def public() -> Iterator[Path]:
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    with ordinary_user.public_directory() as directory:
        yield directory


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        (resource.RLIMIT_AS, 3_000_000 << 10),
        (resource.RLIMIT_CPU, 50),
        (resource.RLIMIT_FSIZE, 64 * MIB),
        (resource.RLIMIT_CORE, 0),
    ],
)
def test_a_lower_limit_that_we_were_given_is_kept(
    public: Path, limit: int, value: int
) -> None:
    """An ordinary user can't raise a hard limit: prlimit(1) would fail."""
    base = images.convert(
        images.make_base(public, size=16 * MIB), format="qcow2", compress=True
    )
    disk = public / "disk"
    finished = subprocess.run(
        ordinary_user.command(
            *cli.command("provision", disk, "--base", base, "--base-format", "qcow2"),
            *("--size", "32M", "--strategy", "performance"),
        ),
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(XDG_RUNTIME_DIR=str(public)),
        cwd=public,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )
    assert finished.returncode == 0, finished.stderr
    assert images.same_content(disk, base, formats=("qcow2", "qcow2"))
