"""The operator's options, read by oslo.config, and the policy that they make.

The group ``[allocpolicy]`` holds them; ``[DEFAULT] preallocate_images``, as nova.conf
has had it, is honoured where ``[allocpolicy] preallocate_images`` is not set.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from oslo_config import cfg

from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.contract.policy import DEFAULT, Policy
from allocpolicy.errors import ConfigError
from allocpolicy.resolve.config_places import PROJECT
from allocpolicy.storage import named_lock

GROUP = PROJECT

_MIB = 1024 * 1024

_DEFAULT_OPTIONS = [
    cfg.StrOpt(
        "preallocate_images",
        help="The strategy of disks whose flavor chooses none, as Nova's option of this"
        " name says it. [allocpolicy] preallocate_images goes before it.",
    ),
]

_OPTIONS = [
    cfg.StrOpt(
        "preallocate_images",
        default="none",
        help="How the storage of a disk is allocated when its flavor does not say: the"
        " name of an installed strategy. With allocpolicy come none (thin), space (all"
        " of the disk's storage is reserved when it is made) and performance (a disk"
        " without a backing file, all of its metadata preallocated); 'allocpolicy"
        " strategy list' shows what else is installed. When it is not set here,"
        " [DEFAULT] preallocate_images counts.",
    ),
    cfg.BoolOpt(
        "flavor_override",
        default=True,
        help="Whether flavors choose the strategy and its options by extra specs"
        " (allocpolicy:strategy and others). When false, those of a flavor are ignored,"
        " those of a command line are refused, and every disk gets"
        " preallocate_images.",
    ),
    cfg.ListOpt(
        "allowed_strategies",
        default=[],
        help="The strategies that extra specs may choose; others are refused. When"
        " empty, every installed strategy may be chosen. preallocate_images and"
        " fallback_strategies are the operator's own and are not limited by it.",
    ),
    cfg.StrOpt(
        "on_unsupported",
        default="fail",
        choices=[
            ("fail", "Refuse to make the disk."),
            (
                "fallback",
                "Take the next of fallback_strategies; the report names both.",
            ),
        ],
        help="What happens when the storage cannot do what the chosen strategy needs,"
        " such as fallocate on ext2. Too little space is never a reason to fall back.",
    ),
    cfg.ListOpt(
        "fallback_strategies",
        default=["none"],
        help="The strategies that are tried in order when on_unsupported = fallback.",
    ),
    cfg.FloatOpt(
        "headroom_ratio",
        default=0.01,
        min=0,
        max=1,
        help="The share of the reserved bytes, not written yet, that is kept free on"
        " the filesystem beside them: writing into reserved storage takes blocks for"
        " the filesystem's own trees.",
    ),
    cfg.IntOpt(
        "headroom_minimum",
        default=64 * _MIB,
        min=0,
        help="The least that is kept free beside reserved bytes, in bytes.",
    ),
    cfg.StrOpt(
        "lock_path",
        sample_default="/run/allocpolicy",
        help="The directory of the locks, one for each filesystem, under which storage"
        " is reserved; every process that makes disks on a host must use the same. When"
        " not set: /run/allocpolicy for root, allocpolicy under $XDG_RUNTIME_DIR for"
        " others, or allocpolicy-UID under the directory of temporary files; these are"
        " refused where another user may write to them. A directory that is set here is"
        " taken as it is: whoever may read the lock files in it may hold the locks.",
    ),
    cfg.FloatOpt(
        "max_overcommit_ratio",
        default=0,
        min=0,
        help="How many times the size of a filesystem, less what is reserved on it,"
        " may be taken and promised together: used bytes, and what thin disks may come"
        " to take when their guests write all of them. A disk that would exceed it is"
        " refused. 1 means that every disk can be filled; 0 is no limit. With a limit,"
        " disks of every strategy are made one after the other on a filesystem, each"
        " until it is published, so that racing requests never exceed it; only the"
        " disks of the same directory, and of disk_directories, are counted.",
    ),
    cfg.IntOpt(
        "reserved_host_disk",
        default=0,
        min=0,
        help="What is kept free for the host itself on every filesystem, in bytes. It"
        " is no part of what max_overcommit_ratio multiplies.",
    ),
    cfg.ListOpt(
        "disk_directories",
        default=[],
        help="The directories whose disks are accounted together with those of the"
        " directory that a disk is in, recursively: for headroom, for"
        " max_overcommit_ratio, and for what 'host capacity' shows. Those on other"
        " filesystems than the disk at hand are left out. When empty, only that"
        " directory and those below it count.",
    ),
    cfg.StrOpt(
        "image_cache_dir",
        sample_default="_base beside the disk",
        help="The directory of base images that were converted from a foreign format."
        " When not set: _base beside the disk. Set it where each disk has a directory"
        " of its own; on the disks' filesystem data can still be shared by reflink.",
    ),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options by group, for oslo-config-generator."""
    return [("DEFAULT", list(_DEFAULT_OPTIONS)), (GROUP, list(_OPTIONS))]


def register(conf: cfg.ConfigOpts) -> None:
    """Give ``conf`` our options; those that it has stay as they are (Nova's own)."""
    for options, group in ((_DEFAULT_OPTIONS, None), (_OPTIONS, GROUP)):
        for option in options:
            try:
                conf.register_opt(option, group=group)
            except cfg.DuplicateOptError:
                continue  # Nova registers [DEFAULT] preallocate_images with choices


def load(
    *, config_files: Sequence[Path | str] = (), config_dirs: Sequence[Path | str] = ()
) -> cfg.ConfigOpts:
    """Read the configuration: these files, or those where oslo.config finds ours.

    :raises ConfigError: when a file is missing or cannot be read or parsed.
    """
    conf = cfg.ConfigOpts()
    register(conf)
    args = [f"--config-file={path}" for path in config_files]
    args += [f"--config-dir={path}" for path in config_dirs]
    try:
        conf(args, project=PROJECT, prog=PROJECT)
    except cfg.Error as error:
        raise ConfigError(_one_line(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        named = getattr(error, "filename", None) or ", ".join(map(str, config_files))
        raise ConfigError(f"cannot read {named}: {_one_line(error)}") from error
    return conf


def policy(conf: cfg.ConfigOpts) -> Policy:
    """Return the policy that ``conf`` makes; it may be a program's own, such as Nova's.

    :raises ConfigError: naming the option and where it was set, for a bad value.
    """
    register(conf)
    (default, default_origin), *overridden = _defaults(conf)
    return Policy(
        default_strategy=default,
        default_origin=default_origin,
        overridden_defaults=tuple(overridden),
        flavor_override=_get(conf, "flavor_override"),
        flavor_override_origin=_origin(conf, "flavor_override"),
        allowed_strategies=tuple(_get(conf, "allowed_strategies")),
        on_unsupported=_get(conf, "on_unsupported"),
        fallback_strategies=tuple(_get(conf, "fallback_strategies")),
        headroom=_headroom(conf),
        lock_path=_directory(conf, "lock_path") or named_lock.own_directory(),
        image_cache_dir=_directory(conf, "image_cache_dir"),
        disk_directories=_directories(conf, "disk_directories"),
        limits=_limits(conf),
    )


def _defaults(conf: cfg.ConfigOpts) -> list[tuple[str, str]]:
    """Return every default strategy with its origin, in order of precedence."""
    name = "preallocate_images"
    defaults = []
    for group in (GROUP, None):
        value = _get(conf, name, group=group)
        origin = _origin(conf, name, group=group)
        if origin != DEFAULT:
            defaults.append((value or _refuse(origin, "it is empty"), origin))
    is_set = _location(conf, name, GROUP) is not None
    return [*defaults, ("none" if is_set else _get(conf, name), DEFAULT)]


def _headroom(conf: cfg.ConfigOpts) -> Headroom:
    ratio = _get(conf, "headroom_ratio")
    if not 0 <= ratio <= 1:  # oslo.config lets nan pass
        origin = _origin(conf, "headroom_ratio")
        _refuse(origin, "it is not a number from 0 to 1")
    return Headroom(ratio=ratio, minimum=_get(conf, "headroom_minimum"))


def _limits(conf: cfg.ConfigOpts) -> Limits:
    ratio = _get(conf, "max_overcommit_ratio")
    if not math.isfinite(ratio):  # oslo.config lets nan pass
        origin = _origin(conf, "max_overcommit_ratio")
        _refuse(origin, "it is not a number of at least 0")
    reserved = _get(conf, "reserved_host_disk")
    return Limits(max_overcommit_ratio=ratio, reserved_host_disk=reserved)


def _directory(conf: cfg.ConfigOpts, name: str) -> Path | None:
    value = _get(conf, name)
    return _absolute(conf, name, value) if value else None


def _directories(conf: cfg.ConfigOpts, name: str) -> tuple[Path, ...]:
    paths = tuple(_absolute(conf, name, value) for value in _get(conf, name))
    for path in paths:
        if not path.is_dir():  # a misspelt one would leave its disks uncounted
            _refuse(_origin(conf, name), f"{str(path)!r} is no directory")
    return paths


def _absolute(conf: cfg.ConfigOpts, name: str, value: str) -> Path:
    if not Path(value).is_absolute():
        _refuse(_origin(conf, name), f"{value!r} is not an absolute path")
    return Path(value)


def _get(conf: cfg.ConfigOpts, name: str, *, group: str | None = GROUP) -> Any:
    try:
        return conf[group][name] if group else conf[name]
    except cfg.ConfigSourceValueError as error:
        reason = _one_line(error.__context__ or error)
        place = _place_of_bad_value(str(error), name=name, group=group)
        raise ConfigError(f"[{group or 'DEFAULT'}] {name} {place}: {reason}") from error
    except cfg.Error as error:
        raise ConfigError(f"[{group or 'DEFAULT'}] {name}: {error}") from error


def _place_of_bad_value(message: str, *, name: str, group: str | None) -> str:
    # The value cannot be got, so its location cannot either, but from the message.
    variable = f"OS_{(group or 'DEFAULT').upper()}__{name.upper()}"
    if variable in os.environ:
        return f"in environment {variable}"
    detail = re.search(r"detail='(.*?)'", message)
    return f"in {detail[1]}" if detail else "as it is set"


def _location(
    conf: cfg.ConfigOpts, name: str, group: str | None
) -> cfg.LocationInfo | None:
    """Return where somebody set the option; None when it is at a default."""
    found = conf.get_location(name, group=group)
    defaults = (cfg.Locations.opt_default, cfg.Locations.set_default)
    return None if found is None or found.location in defaults else found


def _origin(conf: cfg.ConfigOpts, name: str, *, group: str | None = GROUP) -> str:
    found = _location(conf, name, group)
    if found is None:
        return DEFAULT
    if found.location is cfg.Locations.environment:
        return f"environment {found.detail}"
    is_file = found.location is cfg.Locations.user
    where = found.detail if is_file else found.location.name
    return f"[{group or 'DEFAULT'}] {name} in {where}"


def _refuse(origin: str, reason: str) -> NoReturn:
    raise ConfigError(f"{origin}: {reason}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
