"""Write the completions of allocpolicy for bash, zsh and fish, from its parsers.

python -m tools.completions DIRECTORY

They are files that start no program: commands, options, what an option takes where that
is known, and paths. Neither needs anything but its shell. (cliff's own, of the command
``complete``, needs the package bash-completion, and serves bash alone.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tools import completion_bash, completion_fish, completion_zsh
from tools.command_line import PROGRAM, commands

# bash's is found by its name, zsh's by the underscore.
FILES = {
    PROGRAM: completion_bash.write,
    f"_{PROGRAM}": completion_zsh.write,
    f"{PROGRAM}.fish": completion_fish.write,
}


def main(arguments: Sequence[str]) -> int:
    """Write the files into a directory."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    known = commands()
    for name, write in FILES.items():
        Path(arguments[0], name).write_text(write(known), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
