"""Sizes, owners and modes as people write them; what errors look like."""

from __future__ import annotations

import grp
import os
import pickle
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy import errors, size
from allocpolicy.cli.options import access
from allocpolicy.errors import InvalidRequest
from allocpolicy.resolve.policy import load_policy
from allocpolicy.wording import format_size, one_line

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@given(st.integers(0, 1 << 50), st.sampled_from(sorted(UNITS)))
def test_a_size_is_a_number_and_a_binary_unit(number: int, unit: str) -> None:
    expected = number * UNITS[unit]
    assert size.parse(f"{number}{unit}") == expected
    assert size.parse(f"{number}{unit.lower()}") == expected
    if unit:
        assert size.parse(f"{number}{unit}iB") == expected


@given(st.text(max_size=8))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    try:
        assert size.parse(text) >= 0
    except InvalidRequest as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("1GB", 10**9), ("1gb", 10**9), ("1.5TB", 15 * 10**11), ("2kB", 2000)),
        *(("1GiB", 1 << 30), ("1 GiB", 1 << 30), ("40 gib", 40 << 30)),
        *(("512B", 512), ("512 bytes", 512)),
    ],
)
def test_only_a_unit_with_b_alone_is_a_power_of_1000(text: str, expected: int) -> None:
    """As for virsh, coreutils and util-linux; what is shown as a size is one."""
    assert size.parse(text) == expected


@given(st.integers(0, 1 << 50))
def test_a_size_can_be_written_as_it_is_shown(number: int) -> None:
    shown = format_size(number).split("(")[-1].rstrip(")")
    assert size.parse(shown) == number


@pytest.mark.parametrize("text", ["1EB", "1Gi", "1GBit", "1\u212a", "G", "1  G", "-1G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write a number of bytes"):
        size.parse(text)


def test_the_operators_sizes_have_the_same_units(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text(
        "[allocpolicy]\nreserved_host_disk = 10GB\nmax_promised_bytes = 2 TiB\n"
    )
    policy = load_policy(config_files=[file])
    assert policy.limits.reserved_host_disk == 10**10
    assert policy.limits.max_promised_bytes == 2 << 40


def test_fractions_are_exact() -> None:
    assert size.parse("1.5G") == 3 << 29
    assert size.parse("0.5K") == 512
    with pytest.raises(InvalidRequest):
        size.parse("0.0001K")


def test_owner_by_name_or_number() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    by_name = access.parse(owner=f"{user.pw_name}:{group.gr_name}", mode="0640")
    by_number = access.parse(owner=f"{user.pw_uid}:{group.gr_gid}", mode="640")
    assert by_name == by_number
    assert by_name.mode == 0o640


@pytest.mark.parametrize("mode", ["", "rw", "0999", "-1", "7777", "0x1ff"])
def test_what_is_no_mode_is_refused(mode: str) -> None:
    with pytest.raises(InvalidRequest):
        access.parse(owner=None, mode=mode)


@given(st.text())
def test_an_error_is_one_printable_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


EXAMPLES = [
    errors.Error("x"),
    errors.InvalidRequest("x"),
    errors.ConfigError("x"),
    errors.DomainError("x"),
    errors.ExtraSpecError("key", "value", "x"),
    errors.FlavorError(Path("/f"), "x"),
    errors.StrategyNotFound("name", "x"),
    errors.PlanError("x"),
    errors.ImageError(Path("/i"), "x"),
    errors.FormatUnknown(Path("/i"), "x"),
    errors.OutOfReach(Path("/i"), "x"),
    errors.BeyondLimits(Path("/i"), "x"),
    errors.DestinationError(Path("/d"), "x"),
    errors.DestinationExists(Path("/d")),
    errors.NotEnoughSpace(Path("/d"), 2, 1, "x"),
    errors.NoFreeInodes(Path("/d"), 0, 1, "x"),
    errors.Overcommitted(Path("/d"), 3, 2, 1, 1.5, 1.25),
    errors.Unsupported(Path("/d"), "x"),
    errors.StorageFailed(Path("/d"), "x"),
    errors.FailedAfterwards(Path("/d"), "x"),
    errors.DuplicateStrategy("name", ("one", "two")),
    errors.StrategyFailed("name", "d 1 (m:C)", "plan", "x"),
    errors.ContractBroken("x"),
    errors.PromiseBroken(Path("/d"), "name", "x"),
    errors.CommandError(("qemu-img", "create"), 1, "x"),
    errors.WorkerLost("x"),
    errors.TooMuchWork("x"),
    errors.Replan("x"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_pickle_and_speak_in_one_line(error: errors.Error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [one for one in EXAMPLES if isinstance(one.args[0], Path)],
    ids=lambda error: type(error).__name__,
)
def test_an_error_shows_any_path_in_one_line(error: errors.Error) -> None:
    """Escaped, since a space instead of the line break would name another file."""
    odd = type(error)(Path("/new\nline\udcff"), *error.args[1:])
    assert r"/new\nline\udcff" in str(odd)
    assert str(odd).isprintable()


def test_what_others_said_is_one_line_of_an_error() -> None:
    assert str(errors.InvalidRequest("said\nmore\x1b")) == r"said more\x1b"


def test_every_error_has_an_example_and_a_place_in_the_tree() -> None:
    def below(error: type[errors.Error]) -> set[type[errors.Error]]:
        return {error}.union(*map(below, error.__subclasses__()))

    drawn = errors.__doc__ or ""
    assert below(errors.Error) == {type(error) for error in EXAMPLES}
    for error in below(errors.Error):
        line = next(one for one in drawn.splitlines() if error.__name__ in one.split())
        assert str(error.exit_status) in line
