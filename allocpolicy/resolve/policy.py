"""The host's policy, from its configuration or by default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import arguments
from allocpolicy.arguments import StrPath
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import ConfigError
from allocpolicy.resolve import config_places


def load_policy(
    *,
    config_files: StrPath | Sequence[StrPath] = (),
    config_dirs: StrPath | Sequence[StrPath] = (),
) -> Policy:
    """Return the policy in these files, or in those that oslo.config finds by default.

    Files go instead of the default files, and directories instead of the default
    directories, as oslo.config has it: to read nothing else, give both. Where nothing
    is configured, it is that of the options' defaults.

    :raises ConfigError: when one of them cannot be read, or a value is wrong.
    """
    files = arguments.paths(config_files, "config_files")
    directories = arguments.paths(config_dirs, "config_dirs")
    if not (files or directories or config_places.any_used()):
        return Policy(configured=True)  # importing oslo.config is slow
    from allocpolicy.resolve import remembered_policy

    asked = remembered_policy.Asked.of(files, directories)
    return remembered_policy.recalled(asked) or _read(files, directories)


def in_force(policy: Policy | None) -> Policy:
    """Return the policy of a call: the host's own where none is given.

    A `Policy` that a program made by itself says nothing of what the operator has
    configured: other locks, less headroom, strategies that are not allowed. It must
    have been meant, by its field ``configured``, to be used where that is so.

    :raises ConfigError: when it would ignore what is configured, and nobody said so.
    :raises InvalidRequest: when it is no `Policy`.
    """
    if policy is None:
        return load_policy()
    arguments.instance(Policy, policy, "policy")
    if policy.configured is None and config_places.any_used():
        host = load_policy()
        if host not in (Policy(), policy):
            raise ConfigError(_ignored())
    return policy


def _ignored() -> str:
    places = filter(os.path.lexists, map(str, config_places.default_places()))
    return (
        "the given Policy was made without it, and would ignore"
        f" {', '.join(places) or 'the environment'}: leave policy out, or give"
        " load_policy(), or say Policy(configured=False, ...)"
    )


def _read(files: Sequence[Path], directories: Sequence[Path]) -> Policy:
    from allocpolicy.resolve import remembered_policy

    asked = remembered_policy.Asked.of(files, directories)
    before = remembered_policy.ground(asked)
    from allocpolicy.resolve import config

    conf = config.load(config_files=files, config_dirs=directories)
    policy = config.policy(conf)
    read = config.files_read(conf)
    if before is not None and read is not None:
        remembered_policy.remember(policy, asked=asked, before=before, read=read)
    return policy
