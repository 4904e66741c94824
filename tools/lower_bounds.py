"""Install, or check, the lower bounds of setup.cfg: install_requires, and EXTRAS.

python tools/lower_bounds.py install PIP-ARGUMENT …   pip install, held to the bounds
python tools/lower_bounds.py check                    the bounds are what is installed

tox's environment ``lowest`` runs both, so that the bounds stay honest.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# what else is tested at its bound; testing is pytest itself
EXTRAS = ("libvirt", "plot")
SETUP_CFG = Path(__file__).parent.parent / "setup.cfg"
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]+\])?\s*>=\s*(?P<bound>[0-9][0-9A-Za-z.]*)"
)


def lower_bounds(setup_cfg: Path) -> Mapping[str, str]:
    """Return the lowest allowed version of each required distribution.

    :raises ValueError: when a requirement is not of the form ``name>=version``.
    """
    parser = configparser.ConfigParser()
    parser.read_string(setup_cfg.read_text(encoding="utf-8"))
    bounds = {}
    required = parser["options"]["install_requires"]
    for extra in EXTRAS:
        required += parser.get("options.extras_require", extra, fallback="")
    for requirement in required.split("\n"):
        if not requirement:
            continue
        found = REQUIREMENT.fullmatch(requirement)
        if not found:
            raise ValueError(f"{setup_cfg}: no single lower bound in {requirement!r}")
        bounds[found["name"]] = found["bound"]
    return bounds


def install(arguments: Sequence[str]) -> int:
    """Run ``pip install`` held to the bounds; return its exit status."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        for name, bound in lower_bounds(SETUP_CFG).items():
            constraints.write(f"{name}=={bound}\n")
        constraints.flush()
        pip = [sys.executable, "-m", "pip", "install", "-c", constraints.name]
        return subprocess.run([*pip, *arguments], check=False).returncode


def check() -> int:
    """Print each distribution that is not installed at its bound; return 1 if any."""
    wrong = [
        f"{name}: {installed} is installed, not {bound}"
        for name, bound in lower_bounds(SETUP_CFG).items()
        if (installed := importlib.metadata.version(name)) != bound
    ]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


def main(arguments: Sequence[str]) -> int:
    """Do what the first argument says; return the exit status."""
    match arguments:
        case ["install", *rest]:
            return install(rest)
        case ["check"]:
            return check()
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
