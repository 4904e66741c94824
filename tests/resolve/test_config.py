"""The operator's options: where they are read from, and what they come to."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg, validator

from allocpolicy.contract.policy import (
    Convert,
    Libvirt,
    Machines,
    Otherwise,
    Policy,
    PreparedDisks,
)
from allocpolicy.errors import ConfigError
from allocpolicy.resolve import config, config_options, config_places
from tests.harness import ordinary_user

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "nova.conf"
        path.write_text(text)
        return path

    return write


@pytest.fixture(autouse=True)
def no_default_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)


def policy(*files: Path) -> Policy:
    return config.policy(config.load(config_files=files))


def refusal(*files: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        policy(*files)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_nothing_set_is_the_policy_without_arguments() -> None:
    """The fields of Policy and the options have the same defaults."""
    assert policy() == Policy(overridden_defaults=())


def test_no_place_where_oslo_config_looks_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever release of it: only where nothing is, it isn't asked."""
    asked: list[Path] = []

    def exists(path: str) -> bool:
        asked.append(Path(path))
        return False

    monkeypatch.setattr(os.path, "exists", exists)
    cfg.find_config_files(project="allocpolicy", prog="allocpolicy")
    cfg.find_config_dirs(project="allocpolicy", prog="allocpolicy")
    places = config_places.default_places()
    assert asked
    for path in asked:
        assert not {path, *path.parents}.isdisjoint(places), path
    for place in places:
        assert any(place in (path, *path.parents) for path in asked), place


@pytest.mark.parametrize(
    ("variable", "used"),
    [
        ("OS_ALLOCPOLICY__PREALLOCATE_IMAGES", True),
        ("OS_DEFAULT__PREALLOCATE_IMAGES", True),
        ("SNAP_COMMON", True),
        ("OS_AUTH_URL", False),
    ],
)
def test_variables_that_oslo_config_reads_are_seen(
    variable: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_places, "default_places", tuple)
    assert not config_places.any_used()
    monkeypatch.setenv(variable, "space")
    assert config_places.any_used() == used


def test_a_file_in_a_default_place_is_seen(tmp_path: Path) -> None:
    """Whatever it is: what becomes of it is oslo.config's to say."""
    (tmp_path / "allocpolicy.conf").symlink_to(tmp_path / "nowhere")
    assert config_places.any_used()


def test_nova_conf_is_honoured_without_a_warning(
    write: Write, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """[DEFAULT] preallocate_images counts where [allocpolicy] has none."""
    caplog.set_level(logging.DEBUG)
    path = write("[DEFAULT]\npreallocate_images = space\n[libvirt]\nimages_type=raw\n")
    made = policy(path)
    assert made.default_strategy == "space"
    assert made.default_origin == f"[DEFAULT] preallocate_images in {path}"
    assert made.overridden_defaults == (("none", "default"),)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [w for w in recwarn if "preallocate" in str(w.message)]


def test_own_group_goes_before_default(write: Write) -> None:
    """[allocpolicy] > [DEFAULT] > none, and what was overridden is told."""
    path = write(
        "[DEFAULT]\npreallocate_images = space\n"
        "[allocpolicy]\npreallocate_images = none\n"
    )
    made = policy(path)
    assert made.default_strategy == "none"
    assert made.default_origin == f"[allocpolicy] preallocate_images in {path}"
    assert made.overridden_defaults == (
        ("space", f"[DEFAULT] preallocate_images in {path}"),
        ("none", "default"),
    )


def test_environment_goes_before_files(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OS_ALLOCPOLICY__… works as oslo.config does it."""
    path = write("[allocpolicy]\npreallocate_images = none\n")
    monkeypatch.setenv("OS_ALLOCPOLICY__PREALLOCATE_IMAGES", "space")
    made = policy(path)
    assert made.default_strategy == "space"
    assert made.default_origin == "environment OS_ALLOCPOLICY__PREALLOCATE_IMAGES"


def test_every_option_reaches_the_policy(write: Write) -> None:
    """What the file says is what the record holds, typed."""
    path = write(
        "[allocpolicy]\nflavor_override = no\nallowed_strategies = none, space\n"
        "on_unsupported = fallback\nfallback_strategies = space,none\n"
        "headroom_ratio = 0.5\nheadroom_minimum = 7\nlock_path = /l\n"
        "image_cache_dir = /c\ndisk_directories = /tmp, /usr/lib\n"
        "max_overcommit_ratio = 1.5\nreserved_host_disk = 9\n"
        "max_promised_bytes = 8\ntrusted_base_directories = /usr, /tmp\n"
        "size_alignment = 1M\nprepared_disks = 20G\n"
        "qemu_version = 8.1.0\nlibvirt_version = 9.5\n"
        "snapshot_policy = inherit\nlibvirt_default = space\n"
        "libvirt_convert = never\nlibvirt_max_copy = 3G\nlibvirt_deadline = 1.5\n"
        "libvirt_on_unmet = fail\nlibvirt_on_error = pass\nlibvirt_base_dirs = /usr\n"
    )
    made = policy(path)
    assert not made.flavor_override
    assert made.flavor_override_origin == f"[allocpolicy] flavor_override in {path}"
    assert made.allowed_strategies == ("none", "space")
    assert made.on_unsupported == "fallback"
    assert made.fallback_strategies == ("space", "none")
    assert (made.headroom.ratio, made.headroom.minimum) == (0.5, 7)
    assert (made.lock_path, made.image_cache_dir) == (Path("/l"), Path("/c"))
    assert made.limits.max_overcommit_ratio == 1.5
    assert made.limits.reserved_host_disk == 9
    assert made.limits.max_promised_bytes == 8
    assert made.trusted_base_directories == (Path("/usr"), Path("/tmp"))
    assert made.size_alignment == 1 << 20
    assert made.prepared_disks == PreparedDisks(max_bytes=20 << 30)
    assert made.machines == Machines(qemu=(8, 1), libvirt=(9, 5))
    assert made.disk_directories == (Path("/tmp"), Path("/usr/lib"))
    assert made.inherits
    assert made.libvirt == Libvirt(
        default="space",
        convert=Convert.NEVER,
        max_copy=3 << 30,
        deadline=1.5,
        on_unmet=Otherwise.FAIL,
        on_error=Otherwise.PASS,
        base_directories=(Path("/usr"),),
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("headroom_ratio = 2", "headroom_ratio"),
        ("headroom_ratio = nan", "headroom_ratio"),
        ("headroom_minimum = -1", "headroom_minimum"),
        ("headroom_minimum = 64 apples", "headroom_minimum"),
        ("flavor_override = perhaps", "flavor_override"),
        ("on_unsupported = panic", "on_unsupported"),
        ("snapshot_policy = ignore", "snapshot_policy"),
        ("preallocate_images =", "preallocate_images"),
        ("lock_path = here", "lock_path"),
        ("image_cache_dir = ./x", "image_cache_dir"),
        ("disk_directories = /usr, e", "disk_directories"),
        ("disk_directories = /usr, /nonexistent", "disk_directories"),
        ("max_overcommit_ratio = -0.5", "max_overcommit_ratio"),
        ("max_overcommit_ratio = nan", "max_overcommit_ratio"),
        ("max_overcommit_ratio = inf", "max_overcommit_ratio"),
        ("reserved_host_disk = -1", "reserved_host_disk"),
        ("reserved_host_disk = 1GB2", "reserved_host_disk"),
        ("max_promised_bytes =", "max_promised_bytes"),
        ("size_alignment = 1000", "size_alignment"),
        ("qemu_version = 8", "qemu_version"),
        ("libvirt_version = new", "libvirt_version"),
        ("image_cache_dir = $nothing", "image_cache_dir"),
        ("prepared_disks =", "prepared_disks"),
        ("prepared_disks = 0", "prepared_disks"),
        ("prepared_disks = -1G", "prepared_disks"),
        ("prepared_disks = true", "prepared_disks"),
        ("libvirt_convert = sometimes", "libvirt_convert"),
        ("libvirt_max_copy = some", "libvirt_max_copy"),
        ("libvirt_deadline = -1", "libvirt_deadline"),
        ("libvirt_deadline = nan", "libvirt_deadline"),
        ("libvirt_on_unmet = panic", "libvirt_on_unmet"),
        ("libvirt_on_error = ignore", "libvirt_on_error"),
        ("libvirt_base_dirs = /nonexistent", "libvirt_base_dirs"),
    ],
)
def test_bad_value_names_option_and_file(write: Write, line: str, what: str) -> None:
    """A bad value is refused in one line that says which and where."""
    path = write(f"[allocpolicy]\n{line}\n")
    message = refusal(path)
    assert f"[allocpolicy] {what}" in message
    assert str(path) in message or "$nothing" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("on", PreparedDisks()),
        (" Off ", PreparedDisks(enabled=False)),
        ("1.5G", PreparedDisks(max_bytes=3 << 29)),
        ("4096", PreparedDisks(max_bytes=4096)),
    ],
)
def test_prepared_disks_are_on_off_or_limited(
    write: Write, text: str, said: PreparedDisks
) -> None:
    made = policy(write(f"[allocpolicy]\nprepared_disks = {text}\n"))
    assert made.prepared_disks == said
    assert policy(write("")).prepared_disks == PreparedDisks()


def test_a_near_word_for_prepared_disks_is_offered(write: Write) -> None:
    message = refusal(write("[allocpolicy]\nprepared_disks = of\n"))
    assert "allowed: on, off, a size such as 20G; did you mean 'off'?" in message


def test_bad_value_names_the_variable(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad value of the environment isn't blamed on a file."""
    path = write("[allocpolicy]\nheadroom_ratio = 0.5\n")
    monkeypatch.setenv("OS_ALLOCPOLICY__HEADROOM_RATIO", "much")
    message = refusal(path)
    assert "environment OS_ALLOCPOLICY__HEADROOM_RATIO" in message
    assert str(path) not in message


def test_sizes_are_written_as_on_the_command_line(write: Write) -> None:
    """All options that are sizes take units, and bytes without one."""
    made = policy(
        write(
            "[allocpolicy]\nheadroom_minimum = 1.5G\nreserved_host_disk = 10G\n"
            "max_promised_bytes = 2TiB\n"
        )
    )
    assert made.headroom.minimum == 3 << 29
    assert made.limits.reserved_host_disk == 10 << 30
    assert made.limits.max_promised_bytes == 2 << 40


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[allocpolicy]\npreallocate_image = space\n", "did you mean 'preallocate_im"),
        ("[AllocPolicy]\nheadroom = 1G\n", "did you mean 'headroom_"),
        ("[allocpolicy]\nx = 1\n", "there is no such option; allowed: "),
        ("[alloc_policy]\npreallocate_images = space\n", "did you mean 'allocpolicy'?"),
        ("[alocpolicy]\nx = 1\n", "nobody reads this group"),
        ("[allocpolicy.space]\nreserve = zero-fill\n", "nobody reads this group"),
        ("[nova:allocpolicy]\nx = 1\n", "nobody reads this group"),
        ("[default]\npreallocate_images = space\n", "did you mean 'DEFAULT'?"),
        ("[Default]\non_unsupported = fail\n", "it belongs in the group [allocpolicy]"),
        ("[DEFAULT]\npreallocate_image = space\n", "did you mean 'preallocate_im"),
        ("[DEFAULT]\nheadroom_ratio = 0.5\n", "it belongs in the group [allocpolicy]"),
    ],
)
def test_a_setting_that_nobody_reads_is_told(
    write: Write, content: str, told: str, tmp_path: Path
) -> None:
    """An operator who misspelt an option must not get the default in silence."""
    path = write(content)
    message = refusal(path)
    assert told in message
    assert str(path) in message
    directory = tmp_path / "conf.d"
    directory.mkdir()
    moved = path.rename(directory / path.name)
    conf = config.load(config_dirs=[directory, directory])
    with pytest.raises(ConfigError, match=str(moved)):
        config.policy(conf)


def test_what_belongs_to_other_programs_is_theirs(write: Write) -> None:
    """A nova.conf is full of options that allocpolicy doesn't know."""
    path = write(
        "[DEFAULT]\nlock_path = /var/lock\nreserved_host_disk_mb = 0\nstrategy = x\n"
        "[placement]\nregion_name = a\n[oslo_policy]\npolicy_file = b\n"
        "[filter_scheduler]\nenabled_filters = c\n"
    )
    assert policy(path) == Policy(overridden_defaults=())


@pytest.mark.parametrize(
    "variable",
    [
        *("OS_ALLOCPOLICY__PREALLOCATE_IMAGE", "OS_ALLOCPOLICY_PREALLOCATE_IMAGES"),
        *("os_allocpolicy__preallocate_images", "OS_ALOCPOLICY__PREALLOCATE_IMAGES"),
        *("OS_ALLOC_POLICY__PREALLOCATE_IMAGES", "ALLOCPOLICY__PREALLOCATE_IMAGES"),
        "ALLOCPOLICY_PREALLOCATE_IMAGES",
    ],
)
def test_a_variable_that_nobody_reads_is_told(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that only has an underscore too few, or another case."""
    monkeypatch.setenv(variable, "space")
    assert config_places.any_used()
    message = refusal()
    assert f"environment {variable}" in message
    assert "did you mean 'OS_ALLOCPOLICY__PREALLOCATE_IMAGES'?" in message


def test_a_misspelt_variable_for_the_shared_group_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nova reads the right one, too."""
    monkeypatch.setenv("OS_DEFAULT__PREALLOCATE_IMAGE", "space")
    assert "did you mean 'OS_DEFAULT__PREALLOCATE_IMAGES'?" in refusal()


def test_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts around allocpolicy have their own."""
    for name in ("ALLOCPOLICY_HOME", "ALSA_CARD", "OS_ALIAS", "OS_DEFAULT__DEBUG"):
        monkeypatch.setenv(name, "1")
    assert policy() == Policy(overridden_defaults=())


@pytest.mark.parametrize("content", [b"no equals sign\n", b"[DEFAULT]\nx = \xff\xfe\n"])
def test_unparsable_file_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that isn't configuration is refused by name."""
    path = tmp_path / "broken.conf"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    """A file that was asked for must be there."""
    assert "gone.conf" in refusal(tmp_path / "gone.conf")
    assert str(tmp_path) in refusal(tmp_path)
    with pytest.raises(ConfigError, match=r"gone\.d"):
        config.load(config_dirs=[tmp_path / "gone.d"])
    (tmp_path / "file.d").touch()
    with pytest.raises(ConfigError, match=r"file\.d: Not a directory"):
        config.load(config_dirs=[tmp_path / "file.d"])


@pytest.mark.parametrize("inside", [".allocpolicy", "allocpolicy.conf.d"])
def test_a_directory_that_cannot_be_looked_into_is_told(
    monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    """oslo.config finds nothing in it, and the operator's limits would be ignored."""
    before = os.geteuid()
    with ordinary_user.public_place() as home:
        monkeypatch.setenv("HOME", str(home))
        place = home / inside
        place.mkdir()
        place.chmod(0o700 if before == 0 else 0)
        try:
            if before == 0:
                os.seteuid(ordinary_user.UID)
            assert place in config_places.closed()
            with pytest.raises(ConfigError, match="Permission denied"):
                config.load()
        finally:
            os.seteuid(before)
        place.chmod(0o755)
        assert place not in config_places.closed()


@pytest.mark.system
@pytest.mark.parametrize("option", ["disk_directories", "trusted_base_directories"])
def test_directories_need_not_be_open_to_everybody(option: str) -> None:
    """Every command of an ordinary user failed where one could not be looked into."""
    with ordinary_user.public_place() as place:
        inside, conf = place / "closed" / "inside", place / "a.conf"
        inside.mkdir(parents=True)
        inside.parent.chmod(0o700)
        conf.write_text(f"[allocpolicy]\n{option} = {inside}\n")
        assert getattr(policy(conf), option) == (inside,)
        with ordinary_user.assumed():
            assert getattr(policy(conf), option) == (inside,)
        conf.write_text(f"[allocpolicy]\n{option} = {place / 'gone'}\n")
        with ordinary_user.assumed():
            assert "is not a directory" in refusal(conf)


def test_an_option_that_refers_to_itself_is_refused(write: Write) -> None:
    path = write("[allocpolicy]\nlock_path = $lock_path/x\n")
    assert "[allocpolicy] lock_path: it refers to itself" in refusal(path)


def test_programs_own_options_serve() -> None:
    """Nova passes its ConfigOpts, where [DEFAULT] preallocate_images exists."""
    conf = cfg.ConfigOpts()
    nova = cfg.StrOpt("preallocate_images", default="none", choices=("none", "space"))
    conf.register_opt(nova)
    conf([], project="nova", default_config_files=[], default_config_dirs=[])
    assert config.policy(conf).default_origin == "default"
    conf.set_override("preallocate_images", "space")
    assert config.policy(conf).default_strategy == "space"
    conf.set_override("preallocate_images", "performance", group="allocpolicy")
    assert config.policy(conf).default_strategy == "performance"


def test_lock_path_of_an_ordinary_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever isn't root gets a directory of his own."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert policy().lock_path == tmp_path / "allocpolicy"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert policy().lock_path.name == "allocpolicy-1234"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert policy().lock_path.name == "allocpolicy-1234"


def test_lock_path_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's is below a directory that nobody else can write to."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert policy().lock_path == Path("/run/allocpolicy")


def test_every_option_has_a_help_text() -> None:
    """The sample configuration explains each option."""
    for _, options in config_options.list_opts():
        assert all(option.help and option.help.endswith(".") for option in options)


def test_sample_configuration_is_complete() -> None:
    """oslo-config-generator finds the options by entry point, host independent."""
    generator = "import sys; from oslo_config.generator import main; sys.exit(main())"
    sample = subprocess.run(
        [sys.executable, "-P", "-c", generator, "--namespace", "allocpolicy"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for _, options in config_options.list_opts():
        for option in options:
            assert f"#{option.name} =" in sample
    assert "#lock_path = /run/allocpolicy" in sample


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("[allocpolicy]\npreallocate_images = space\nheadroom_ratio = 0.02\n", []),
        ("[DEFAULT]\npreallocate_images = space\n", []),
        ("[allocpolicy]\nheadroom_ration = 0.02\n", ["allocpolicy/headroom_ration"]),
        ("[DEFAULT]\npreallocate_image = space\n", ["DEFAULT/preallocate_image"]),
    ],
)
def test_oslo_config_validator_knows_the_options(
    write: Write,
    text: str,
    unknown: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the entry point, as an operator has it: it tells what is none of them."""
    line = ["validator", "--namespace", "allocpolicy", "--input-file", str(write(text))]
    monkeypatch.setattr(sys, "argv", line)
    failed = validator.main()
    told = [record.getMessage().split()[0] for record in caplog.records]
    assert (told, bool(failed)) == (unknown, bool(unknown))
