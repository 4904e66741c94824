"""Who changes something: the user who logged in, whom sudo(8) hides from a euid.

The kernel's audit gives every process of a login the user ID with which it began
(/proc/self/loginuid, proc(5)), and no later setuid(2) changes that; daemons have none.
"""

from __future__ import annotations

import os

from allocpolicy.record import dataclass

_LOGIN = "/proc/self/loginuid"
_NONE = 2**32 - 1  # of a process that nobody's login began
_LONGEST = 64  # characters of a name in the environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """The user whose process makes a change, by the kernel's word and by sudo's."""

    uid: int  #: the real user ID
    euid: int  #: the effective one, which decides what is allowed
    loginuid: int | None  #: who logged in, as audit has it; None: nobody, or unknown
    sudo_user: str | None  #: $SUDO_USER: who called sudo(8), as it says

    @property
    def name(self) -> str:
        """Return the name of who logged in, or else of whose process it is.

        What $SUDO_USER says counts where we are root: another user can set it, too.
        """
        if self.loginuid is not None:
            return _named(self.loginuid)
        if self.uid == 0 and self.sudo_user:
            return self.sudo_user
        return _named(self.uid)


def current() -> Author:
    """Return who it is in this process."""
    sudo_user = os.environ.get("SUDO_USER", "")[:_LONGEST]
    return Author(
        uid=os.getuid(),
        euid=os.geteuid(),
        loginuid=_loginuid(),
        sudo_user=sudo_user or None,
    )


def _loginuid() -> int | None:
    try:
        with open(_LOGIN, "rb") as file:
            found = int(file.read(16))
    except (OSError, ValueError):  # a kernel without audit, or no /proc
        return None
    return None if found == _NONE else found


def _named(uid: int) -> str:
    if uid == 0:  # a directory service must not keep a daemon's work waiting
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
