"""Run the tests with each release of Nova that the backend names, one after another.

python each_nova.py [VERSION …]        default: all that tested.py names

Each is installed into this environment, beside what the newest one needs. The exit
status is 1 if the tests of any fail.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from allocpolicy_nova_backend.tested import VERSIONS

TESTS = Path(__file__).parent / "tests"
INSTALL = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--require-filesystems")


def main(versions: list[str]) -> int:
    """Try each version; return the exit status."""
    failed = [version for version in versions if not works(version)]
    if failed:
        print("failed with Nova", ", ".join(failed))
    return 1 if failed else 0


def works(version: str) -> bool:
    """Install a Nova and return whether the tests pass with it."""
    print("Nova", version, flush=True)
    subprocess.run([*INSTALL, f"nova=={version}"], check=True)
    return subprocess.run([*PYTEST, TESTS], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
