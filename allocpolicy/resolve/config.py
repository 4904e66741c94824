"""Reading the configuration with oslo.config, and the policy that results."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from oslo_config import cfg

from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.contract.policy import (
    DEFAULT,
    ChangeLog,
    Convert,
    Libvirt,
    Machines,
    Otherwise,
    Policy,
    SnapshotPolicy,
    ThinIO,
)
from allocpolicy.errors import ConfigError
from allocpolicy.qcow2.geometry import SECTOR_SIZE
from allocpolicy.resolve import config_places, config_strays
from allocpolicy.resolve.config_options import GROUP, list_opts, register
from allocpolicy.resolve.config_places import PROJECT
from allocpolicy.storage import named_lock


def load(
    *, config_files: Sequence[Path | str] = (), config_dirs: Sequence[Path | str] = ()
) -> cfg.ConfigOpts:
    """Read the configuration in these files, or in those that oslo.config finds.

    :raises ConfigError: when a file is missing or cannot be read or parsed.
    """
    _refuse_closed(config_dirs, default=not (config_files and config_dirs))
    conf = cfg.ConfigOpts()
    register(conf)
    args = [f"--config-file={path}" for path in config_files]
    args += [f"--config-dir={path}" for path in config_dirs]
    try:
        conf(args, project=PROJECT, prog=PROJECT)
    except cfg.Error as error:
        raise ConfigError(_one_line(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        asked = (*config_files, *config_dirs) or (
            *cfg.find_config_files(project=PROJECT, prog=PROJECT),
            *cfg.find_config_dirs(project=PROJECT, prog=PROJECT),
        )
        named = getattr(error, "filename", None) or ", ".join(map(str, asked))
        raise ConfigError(f"cannot read {named}: {_one_line(error)}") from error
    return conf


def _refuse_closed(config_dirs: Sequence[Path | str], *, default: bool) -> None:
    """Refuse directories in which oslo.config would find nothing, in silence.

    :param default: it looks in default places, too.
    """
    for path in config_dirs:
        try:
            os.scandir(os.path.expanduser(path)).close()
        except FileNotFoundError:  # of which it tells
            continue
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for place in config_places.closed() if default else ():
        raise ConfigError(f"cannot look into {place}: {os.strerror(errno.EACCES)}")


def files_read(conf: cfg.ConfigOpts) -> tuple[str, ...] | None:
    """Return the files that were read; None where something else was asked as well."""
    return None if conf.config_source else tuple(config_strays.files(conf))


def policy(conf: cfg.ConfigOpts) -> Policy:
    """Return the policy in ``conf``, which may belong to a program such as Nova.

    :raises ConfigError: naming the option and where it was set, for a bad value, and
        for an option that does not exist.
    """
    register(conf)
    default, ours = ([one.dest for one in options] for _, options in list_opts())
    config_strays.refuse(conf, ours=ours, default=default)
    (strategy, default_origin), *overridden = _defaults(conf)
    return Policy(
        default_strategy=strategy,
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
        prepared_disks=_get(conf, "prepared_disks"),
        disk_directories=_directories(conf, "disk_directories"),
        limits=_limits(conf),
        trusted_base_directories=_directories(conf, "trusted_base_directories"),
        size_alignment=_size_alignment(conf),
        machines=Machines(
            qemu=_get(conf, "qemu_version"),
            libvirt=_get(conf, "libvirt_version"),
            thin_io=ThinIO(_get(conf, "thin_io")),
        ),
        snapshot_policy=SnapshotPolicy(_get(conf, "snapshot_policy")),
        change_log=ChangeLog(_get(conf, "change_log")),
        libvirt=_libvirt(conf),
        configured=True,
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
        _refuse(origin, "it is not a finite number")
    return Limits(
        max_overcommit_ratio=ratio,
        reserved_host_disk=_get(conf, "reserved_host_disk"),
        max_promised_bytes=_get(conf, "max_promised_bytes"),
    )


def _size_alignment(conf: cfg.ConfigOpts) -> int:
    size: int = _get(conf, "size_alignment")
    if size % SECTOR_SIZE:
        origin = _origin(conf, "size_alignment")
        _refuse(origin, f"it is not a multiple of {SECTOR_SIZE}")
    return size


def _libvirt(conf: cfg.ConfigOpts) -> Libvirt:
    deadline = _get(conf, "libvirt_deadline")
    if not math.isfinite(deadline):  # oslo.config lets nan pass
        _refuse(_origin(conf, "libvirt_deadline"), "it is not a number of seconds")
    return Libvirt(
        default=_get(conf, "libvirt_default"),
        convert=Convert(_get(conf, "libvirt_convert")),
        max_copy=_get(conf, "libvirt_max_copy"),
        deadline=deadline,
        on_unmet=Otherwise(_get(conf, "libvirt_on_unmet")),
        on_error=Otherwise(_get(conf, "libvirt_on_error")),
        base_directories=_directories(conf, "libvirt_base_dirs"),
    )


def _directory(conf: cfg.ConfigOpts, name: str) -> Path | None:
    value = _get(conf, name)
    return _absolute(conf, name, value) if value else None


def _directories(conf: cfg.ConfigOpts, name: str) -> tuple[Path, ...]:
    paths = tuple(_absolute(conf, name, value) for value in _get(conf, name))
    for path in paths:
        if not _may_be_directory(path):  # disks in a misspelt one would not be counted
            _refuse(_origin(conf, name), f"{str(path)!r} is not a directory")
    return paths


def _may_be_directory(path: Path) -> bool:
    """Return whether it is one, as far as we may look: what is in it isn't known."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


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
    except RecursionError as error:
        reason = "it refers to itself, by $"
        raise ConfigError(f"[{group or 'DEFAULT'}] {name}: {reason}") from error


def _place_of_bad_value(message: str, *, name: str, group: str | None) -> str:
    # If the value is unavailable, so is its location, except in the message.
    variable = f"OS_{(group or 'DEFAULT').upper()}__{name.upper()}"
    if variable in os.environ:
        return f"in environment {variable}"
    detail = re.search(r"detail='(.*?)'", message)
    return f"in {detail[1]}" if detail else "where it is set"


def _location(
    conf: cfg.ConfigOpts, name: str, group: str | None
) -> cfg.LocationInfo | None:
    """Return where the option is set; None if it has its default."""
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
