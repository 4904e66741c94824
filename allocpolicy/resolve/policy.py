"""The host's policy, from its configuration or by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.resolve import config_places


def load_policy(
    *, config_files: Sequence[Path | str] = (), config_dirs: Sequence[Path | str] = ()
) -> Policy:
    """Return the policy in these files, or in those that oslo.config finds by default.

    :raises ConfigError: when a file cannot be read, or a value is wrong.
    """
    if not (config_files or config_dirs or config_places.any_used()):
        return Policy()  # nothing is configured, and importing oslo.config is slow
    from allocpolicy.resolve import config

    conf = config.load(config_files=config_files, config_dirs=config_dirs)
    return config.policy(conf)
