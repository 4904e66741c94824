"""The record of changes in a real journal, asked as the documentation says."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.harness import plugin
from tests.harness.cli import command, environment
from tests.harness.filesystems import require_program
from tests.harness.patience import PATIENCE

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "changes.md"
DAEMON = "/lib/systemd/systemd-journald"
# A journal in memory, for these processes alone.
ALONE = """
mkdir -p /run/systemd /run/log && mount -t tmpfs none /run/systemd &&
mount -t tmpfs none /run/log && mkdir /run/systemd/journal /run/log/journal &&
mount -t tmpfs none /var/log && mount --bind "$1" /srv || exit
"$0" & daemon=$!
until [ -S /run/systemd/journal/socket ]; do sleep 0.02; done
shift; eval "$1"; status=$?
kill $daemon; wait
exit $status
"""


def test_the_journal_finds_changes_by_disk_user_and_outcome(tmp_path: Path) -> None:
    """Each command of the page finds some; of another disk there are none."""
    for program in ("unshare", "journalctl", DAEMON):
        require_program(program)
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    asked = [line.strip() for line in lines if line.startswith("    journalctl")]
    (tmp_path / "vm").mkdir()
    provision = shlex.join(command("provision", "/srv/vm/web1.qcow2", "--size", "1M"))
    with plugin.failing() as failing:
        script = "\n".join(
            (
                f"{provision} --strategy failing --plugin {failing} 2>/dev/null",
                f"{provision} --strategy space >/dev/null || exit",
                "logger -t other OUTCOME=failed",
                "journalctl --sync",
                *(f"{one} --no-pager -q; echo" for one in asked),
                "journalctl -q --no-pager DISK=/srv/vm/other",
            )
        )
        found = run(script, srv=tmp_path).split("\n\n")
    (*both, failed, of_root, as_data, other) = found
    assert other == ""
    for one in (*both, of_root):
        assert [line.count(" failed: ") for line in one.splitlines()] == [1, 0]
    assert "no luck" in failed
    assert len(failed.splitlines()) == 1
    assert json.loads(as_data)["DISK"] == "/srv/vm/web1.qcow2"


def run(script: str, *, srv: Path) -> str:
    """Run a script beside a journal of its own; return what it prints."""
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--mount-proc"),
            *("sh", "-c", ALONE, DAEMON, srv, script),
        ],
        capture_output=True,
        check=False,
        env=environment(),
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
