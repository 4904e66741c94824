"""What is read of a plain method is what `inspect` says of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from allocpolicy.registry import parameters

SIGNATURES = [
    "self",
    "self, a",
    "self, a, b=1",
    "self, a=1, /, b=2",
    "self, a, /, b",
    "self, /, a",
    "self, *, a",
    "self, *, a, b=1, c",
    "self, a=3, *others, b, **more",
    "self, *others",
    "self, **more",
    "self, a, /, b, c=1, *others, d, e=2, **more",
    "*self",
    "*self, a",
]


def method(signature: str, *, coroutine: bool) -> Any:
    """Return a bound method with this signature."""
    namespace: dict[str, Any] = {}
    prefix = "async " if coroutine else ""
    exec(f"class Made:\n    {prefix}def hook({signature}): x = y = 1", namespace)
    return namespace["Made"]().hook


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_plain_method_is_read_as_inspect_reads_it(
    signature: str, coroutine: bool
) -> None:
    hook = method(signature, coroutine=coroutine)
    assert parameters.of(hook) == parameters._inspected(hook)


def test_what_is_wrapped_has_the_parameters_of_what_it_wraps() -> None:
    class Made:
        @functools.wraps(method("self, a, *, b=1", coroutine=False).__func__)
        def hook(self, *given: object, **named: object) -> None:
            """Take anything."""

    assert parameters.of(Made().hook).by_keyword == ("a", "b")
    assert not parameters.of(Made().hook).takes_any


@pytest.mark.parametrize(
    "hook",
    [functools.partial(print, end=""), len, lambda a, *, b=1: a],
    ids=["partial", "builtin", "lambda"],
)
def test_what_is_no_method_is_read_too(hook: Callable[..., object]) -> None:
    assert parameters.of(hook) == parameters._inspected(hook)
