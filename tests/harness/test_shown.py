"""What counts as the same output."""

from __future__ import annotations

import pytest

from tests.harness.shown import alike

SHOWN = ["web1.qcow2  40 GiB  space", "done after 0.6 s"]


@pytest.mark.parametrize(
    "printed",
    [
        ["web1.qcow2    40 GiB   space", "done after 12 ms"],
        ["web1.qcow2  40.9 GiB  space", "done after 0.6 s"],
    ],
)
def test_widths_times_and_a_little_of_a_number_do_not_matter(
    printed: list[str],
) -> None:
    assert alike(SHOWN, printed)


@pytest.mark.parametrize(
    "printed",
    [
        [],
        SHOWN[:1],
        [*SHOWN, "and more"],
        ["web1.qcow2  40 MiB  space", SHOWN[1]],
        ["web1.qcow2  43 GiB  space", SHOWN[1]],
        ["web1.qcow2  40 GiB  none", SHOWN[1]],
        ["web1.qcow2  40 GiB", SHOWN[1]],
        [SHOWN[0], "failed after 0.6 s"],
    ],
)
def test_words_and_lines_do(printed: list[str]) -> None:
    assert not alike(SHOWN, printed)


def test_lines_can_be_left_out_where_the_page_says_so() -> None:
    assert alike(["first", "…", "last"], ["first", "a", "b", "last"])
    assert alike(["first", "…", "last"], ["first", "last"])
    assert not alike(["first", "…", "last"], ["first", "a"])
