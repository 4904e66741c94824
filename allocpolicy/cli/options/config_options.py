"""Where a command reads the configuration: before its name or after it."""

from __future__ import annotations

import argparse

from allocpolicy.contract.policy import Policy
from allocpolicy.resolve.policy import load_policy


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options that name configuration files."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="read this file instead of the default ones, beside the default"
        " directories; may be repeated",
    )
    group.add_argument(
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="read the *.conf files in this directory instead of the default ones; may"
        " be repeated",
    )


def policy(*arguments: argparse.Namespace) -> Policy:
    """Return the policy of the files that the arguments name, or the default.

    :raises ConfigError: when it cannot be read.
    """
    return load_policy(
        config_files=[path for one in arguments for path in one.config_file],
        config_dirs=[path for one in arguments for path in one.config_dir],
    )
