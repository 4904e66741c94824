"""Extra specs that were probably meant for allocpolicy, and that it doesn't read.

Other namespaces belong to others: a key that only resembles one of ours is told, never
taken for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from allocpolicy import wording
from allocpolicy.errors import ExtraSpecError
from allocpolicy.registry import installed
from allocpolicy.resolve.extra_specs import (
    GRAMMAR,
    NAMESPACE,
    STRATEGY,
    STRATEGY_KEYS,
)

_NAME = NAMESPACE.rstrip(":")
_NEAR_NAMESPACE, _NEAR_WORD, _NEAR_KEY = 0.7, 0.85, 0.95
_NEAR_IF_STRATEGY = 0.5  # where the rest of the key is one of ours
_NOVAS = "preallocate_images"  # its option, which is no extra spec
_HEAD = re.compile(r"[^:;.,/=]*")


def meant(key: str) -> str | None:
    """Return the key of ours that was probably meant; None for another namespace's."""
    if key.startswith(NAMESPACE):
        return None
    written = _cleaned(key)
    head = _HEAD.match(written)
    assert head is not None  # it matches the empty text
    start = written.find(_NAME)
    if start >= 0:
        return _ours(written[start + len(_NAME) :])
    rest = written[head.end() :]
    if written == _NOVAS:
        return STRATEGY
    if _is_ours(head[0], rest=rest):
        return _ours(f"{head[0]}.{rest[1:]}" if rest else head[0])
    ratio = _NEAR_IF_STRATEGY if _is_about_strategies(rest) else _NEAR_NAMESPACE
    return _ours(rest) if _near(head[0], _NAME, ratio=ratio) else None


def among(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, the key that was probably meant) of those that resemble ours."""
    for key in keys:
        if (probably := meant(key)) is not None:
            yield key, probably


def warning(key: str, *, probably: str) -> str:
    """Return what is said of a key that resembles ours."""
    return f"extra spec {key!r} is ignored; did you mean {probably!r}?"


def refuse_others(extra_specs: Mapping[str, str]) -> None:
    """Refuse other namespaces, where every key is meant for us: on the command line.

    :raises ExtraSpecError: naming the first, and the key that was probably meant.
    """
    for key, value in extra_specs.items():
        if not key.startswith(NAMESPACE):
            probably = meant(key)
            hint = f"did you mean {probably!r}?" if probably else ""
            hint = hint or wording.choices(GRAMMAR, nearest_to=key)
            reason = f"it does not begin with {NAMESPACE!r}; {hint}"
            raise ExtraSpecError(key, value, reason)


def _cleaned(key: str) -> str:
    """Return it in lower case, without spaces and invisible characters."""
    folded = unicodedata.normalize("NFKC", key).casefold()
    return "".join(one for one in folded if one.isprintable() and not one.isspace())


def _ours(rest: str) -> str:
    name = rest.lstrip(":;.,/=_-")
    if not name:
        return STRATEGY
    key = f"{NAMESPACE}{name}"
    import difflib

    nearest = difflib.get_close_matches(key, STRATEGY_KEYS, n=1, cutoff=_NEAR_KEY)
    return nearest[0] if nearest else key


def _is_about_strategies(rest: str) -> bool:
    """Return whether what follows a namespace is ``strategy``, or of one disk."""
    return any(rest[1:] == key.removeprefix(NAMESPACE) for key in STRATEGY_KEYS)


def _is_ours(head: str, *, rest: str) -> bool:
    """Return whether a key lacks only our namespace.

    It is ``strategy``, ``space.reserve``, or the same with a colon.
    """
    if _near(head, "strategy", ratio=_NEAR_WORD):
        return True
    return bool(rest) and head in installed.names()


def _near(word: str, ours: str, *, ratio: float) -> bool:
    # As in SequenceMatcher.quick_ratio: no more letters can match, in whatever order.
    common = sum(min(word.count(one), ours.count(one)) for one in set(ours))
    if 2 * common < ratio * (len(word) + len(ours)):
        return False
    import difflib

    return difflib.SequenceMatcher(a=ours, b=word).ratio() >= ratio
