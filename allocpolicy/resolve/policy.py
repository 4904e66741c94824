"""The host's policy, from its configuration or by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.resolve import config_places, remembered_policy


def load_policy(
    *, config_files: Sequence[Path | str] = (), config_dirs: Sequence[Path | str] = ()
) -> Policy:
    """Return the policy in these files, or in those that oslo.config finds by default.

    :raises ConfigError: when a file cannot be read, or a value is wrong.
    """
    if config_files or config_dirs:
        from allocpolicy.resolve import config

        conf = config.load(config_files=config_files, config_dirs=config_dirs)
        return config.policy(conf)
    if not config_places.any_used():
        return Policy()  # nothing is configured, and importing oslo.config is slow
    return remembered_policy.recalled() or _read_by_default()


def _read_by_default() -> Policy:
    before = remembered_policy.ground()
    from allocpolicy.resolve import config

    conf = config.load()
    policy = config.policy(conf)
    read = config.files_read(conf)
    if before is not None and read is not None:
        remembered_policy.remember(policy, before=before, read=read)
    return policy
