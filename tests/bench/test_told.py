"""What qemu-img and the guest tell is read as they write it, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy import CommandError, InvalidRequest
from allocpolicy.bench import inside, outside, regions
from allocpolicy.bench.regions import BLOCK, MIB, SCATTERED, SMALLEST, STEP, Regions

SENDING = (
    "Sending 1560 write requests, 4096 bytes each, 32 in parallel (starting at offset"
    " 0, step size 86016)\n"
)
SERIALS = st.from_regex(r"d[0-9]{1,2}", fullmatch=True)


@given(st.integers(1, 10**9))
def test_seconds_are_those_that_qemu_img_bench_tells(milliseconds: int) -> None:
    """``Run completed in %ld.%03ld seconds.``, of its img_bench()."""
    whole, rest = divmod(milliseconds, 1000)
    said = f"{SENDING}Run completed in {whole}.{rest:03d} seconds.\n"
    assert outside.told_seconds(said) == pytest.approx(milliseconds / 1000)


def test_what_takes_less_than_can_be_told_takes_some_time() -> None:
    said = f"{SENDING}Run completed in 0.000 seconds.\n"
    assert 0 < outside.told_seconds(said) < 0.001


@pytest.mark.parametrize("said", ["", SENDING, "Run completed in no time."])
def test_a_run_that_tells_nothing_has_failed(said: str) -> None:
    with pytest.raises(CommandError):
        outside.told_seconds(said)


@given(
    st.dictionaries(
        SERIALS,
        st.tuples(st.integers(0, 2 * 10**15), st.integers(1, 10**10)),
        max_size=6,
    ),
    st.integers(1, 1 << 40),
)
def test_rates_are_of_the_guest_s_own_clock(
    times: dict[str, tuple[int, int]], size: int
) -> None:
    """Its shell's, in microseconds, beside whatever dd says."""

    def seconds(microseconds: int) -> str:
        return f"{microseconds // 10**6}.{microseconds % 10**6:06d}"

    output = "".join(
        f"dd {serial} 0 {seconds(start)} {seconds(start + took)} 8+0 records in 8+0"
        " records out\n"
        for serial, (start, took) in times.items()
    )
    told = inside.told_rates(output, size=size)
    assert told == {
        serial: pytest.approx(size / took * 10**6, rel=0.05)
        for serial, (_, took) in times.items()
    } or any(took < 100 for _, took in times.values())
    assert list(told) == list(times)


@given(SERIALS, st.integers(1, 255), st.text("abc: '/", max_size=60))
def test_dd_that_fails_has_no_rate(serial: str, status: int, said: str) -> None:
    """But what it said, and never nothing."""
    output = f"dd {serial} {status} 17.20 17.90 {said}\n"
    told = inside.told_rates(output, size=MIB)[serial]
    assert told == (said.strip() or f"status {status}")


@given(st.integers(SMALLEST // MIB, 1 << 20), st.integers(0, 1 << 45))
def test_no_part_of_a_disk_is_written_by_two(mebibytes: int, base_size: int) -> None:
    """And dd, which is in blocks of 1 MiB, writes where no image has data."""
    found = Regions(size=mebibytes * MIB, base_size=base_size)
    scattered = [part * found.size for part in range(SCATTERED)]
    starts = [*scattered, found.dd, found.sequential, found.virtual_size]
    ends = [start + found.size for start in starts]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert found.dd >= base_size and found.dd % MIB == 0
    assert 0 < (found.requests - 1) * STEP + BLOCK <= found.size


@pytest.mark.parametrize("size", [0, MIB, SMALLEST - MIB, SMALLEST + 1])
def test_what_is_no_number_of_blocks_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequest, match="--size"):
        regions.checked(size)
