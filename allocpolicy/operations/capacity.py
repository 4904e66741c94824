"""What a directory's filesystem holds, what it promised, and what it may promise."""

from __future__ import annotations

import contextlib

from allocpolicy import arguments
from allocpolicy.arguments import StrPath
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.observe import account
from allocpolicy.report.capacity import Capacity
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage import directories, mount, quota
from allocpolicy.storage.failure import named, refuse_failure
from allocpolicy.wording import printable


def capacity(directory: StrPath, *, policy: Policy | None = None) -> Capacity:
    """Return the capacity of the directory's filesystem; nothing is written.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.

    :raises InvalidRequest: when the directory cannot be opened.
    """
    directory = arguments.path(directory, "directory")
    policy = in_force(policy)
    with named(directory, action="look at it"), contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(directories.opened(directory))
            fd = stack.enter_context(directories.readable(found))
        except OSError as error:
            refuse_failure(error, path=directory, action="open the directory")
            named_so = printable(str(directory))
            raise InvalidRequest(f"directory {named_so}: {error.strerror}") from error
        taken, entries = account.listing(found.path, policy=policy)
        return Capacity(
            directory=found.path,
            filesystem=mount.identify(fd),
            quotas=quota.quotas(fd),
            account=taken,
            limits=policy.limits,
            entries=entries,
        )
