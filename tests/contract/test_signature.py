"""What is read of a plain method is what `inspect` says of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from allocpolicy.contract import signature

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


KINDS = {
    "plain": ("", "x = y = 1"),
    "coroutine": ("async ", "x = y = 1"),
    "generator": ("", "yield"),
    "generator of coroutines": ("async ", "yield"),
}


def method(parameters: str, *, kind: str) -> Any:
    """Return a bound method with these parameters."""
    prefix, body = KINDS[kind]
    namespace: dict[str, Any] = {}
    exec(f"class Made:\n    {prefix}def hook({parameters}): {body}", namespace)
    return namespace["Made"]().hook


def same(hook: object) -> bool:
    """Return whether the two ways to read it agree."""
    return (signature.parameters(hook), signature.deferred(hook)) == (
        signature._inspected_parameters(hook),
        signature._inspected_deferral(hook),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", SIGNATURES)
def test_a_plain_method_is_read_as_inspect_reads_it(parameters: str, kind: str) -> None:
    assert same(method(parameters, kind=kind))


def test_what_is_wrapped_has_the_parameters_of_what_it_wraps() -> None:
    class Made:
        @functools.wraps(method("self, a, *, b=1", kind="plain").__func__)
        def hook(self, *given: object, **named: object) -> None:
            """Take anything."""

    found = signature.parameters(Made().hook)
    assert found.by_keyword == ("a", "b")
    assert same(Made().hook)


@pytest.mark.parametrize(
    "hook",
    [functools.partial(print, end=""), len, lambda a, *, b=1: a],
    ids=["partial", "builtin", "lambda"],
)
def test_what_is_no_method_is_read_too(hook: Callable[..., object]) -> None:
    assert same(hook)
