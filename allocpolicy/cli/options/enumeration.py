"""Arguments that take one of a few words; an error lists the allowed ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TypeVar

from allocpolicy import wording

Word = TypeVar("Word", bound=str)


def one_of(words: Iterable[Word]) -> Callable[[str], Word]:
    """Return what an argument's ``type`` may be: it takes one of the words."""
    known = {str(word): word for word in words}

    def convert(text: str) -> Word:
        if text in known:
            return known[text]
        allowed = wording.choices(known, nearest_to=text)
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; {allowed}")

    return convert
