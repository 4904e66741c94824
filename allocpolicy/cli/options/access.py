"""Owner and mode bits as people write them: ``libvirt-qemu:kvm``, ``0640``."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable

from allocpolicy.errors import InvalidRequest
from allocpolicy.execute.job import Access

MODE_BITS = 0o777
NO_ID = (1 << 32) - 1  # chown(2): leave the ID as it is


def parse(*, owner: str | None, mode: str) -> Access:
    """Return who may use the disk.

    :raises InvalidRequest: for an unknown user or group, or an invalid mode.
    """
    # int() takes underscores, blanks, prefixes and the digits of all alphabets.
    bits = int(mode, 8) if re.fullmatch(r"(0o)?[0-7]{1,6}", mode) else -1
    if not 0 <= bits <= MODE_BITS:
        raise InvalidRequest(
            f"mode {mode!r}: write octal permission bits, such as 0640"
        )
    return Access(mode=bits, owner=None if owner is None else _owner(owner))


def _owner(owner: str) -> tuple[int, int]:
    user, separator, group = owner.partition(":")
    if not (user and separator and group):
        raise InvalidRequest(f"owner {owner!r}: write USER:GROUP")
    return (
        _number(user, "user", lambda name: pwd.getpwnam(name).pw_uid),
        _number(group, "group", lambda name: grp.getgrnam(name).gr_gid),
    )


def _number(name: str, kind: str, look_up: Callable[[str], int]) -> int:
    if re.fullmatch(r"[0-9]{1,10}", name):
        if int(name) < NO_ID:
            return int(name)
        raise InvalidRequest(f"owner: {name} is not a valid {kind} number")
    try:
        return look_up(name)
    except (KeyError, ValueError) as error:  # ValueError: NUL, or half a character
        raise InvalidRequest(f"owner: there is no {kind} {name!r}") from error
