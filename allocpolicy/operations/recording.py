"""Recording the changes that a program makes where the operator wants them recorded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from allocpolicy import arguments
from allocpolicy.contract.policy import Policy
from allocpolicy.log import telling
from allocpolicy.resolve.policy import in_force


def record_changes(
    *, policy: Policy | None = None, command: str
) -> AbstractContextManager[None]:
    """Have the body's changes recorded as those of the commands are: by change_log.

    Python's logging is told of them as well, with or without this.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :param command: what is recorded as what makes them.
    :raises ConfigError: when the configuration can't be read.
    """
    command = arguments.text(command, "command")
    place = in_force(policy).change_log
    return telling.told_to(partial(telling.sent, to=place), command=command)
