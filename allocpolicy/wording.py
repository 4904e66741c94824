"""Sizes, choices and text of others, as messages show them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

LONGEST = 500  # characters of what others say


def printable(text: str) -> str:
    """Return the text with escapes for what isn't printable, line breaks included.

    Control characters, bidirectional overrides and bytes that are not UTF-8 (lone
    surrogates) would let a file's name or a plugin draw on the terminal, or add lines.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text
    )


def one_line(text: str) -> str:
    """Return the text in one line: line breaks are spaces, the rest is `printable`."""
    return printable(" ".join(text.split("\n")))


def shell_word(path: str | os.PathLike[str], *, ascii_only: bool = False) -> str:
    """Return what is typed in a shell to mean exactly this path.

    A name with a line break, or with bytes that are not UTF-8, can't be shown as it is,
    and escapes within usual quotes would name another file: it is in ``$'...'``, with
    octal escapes, which bash, ksh and zsh read (and sh, since POSIX.1-2024).

    :param ascii_only: what shows it has no other characters.
    """
    text = os.fspath(path)
    if text.isprintable() and (text.isascii() or not ascii_only):
        return shlex.quote(text)
    typed = (_typed(chr(one)) for one in os.fsencode(text))
    return f"$'{''.join(typed)}'"


def _typed(byte: str) -> str:
    plain = byte.isascii() and byte.isprintable() and byte not in "'\\"
    return byte if plain else f"\\{ord(byte):03o}"


def bounded(text: str) -> str:
    """Return what a plugin says in one line, and say how much was left out."""
    left_out = len(text) - LONGEST
    kept = one_line(text[:LONGEST])[: 2 * LONGEST]
    return f"{kept}… ({left_out} more characters)" if left_out > 0 else kept


def raised(error: BaseException) -> str:
    """Return the class and the message of an exception of a plugin, `bounded`."""
    try:
        said = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # noqa: BLE001  (its __str__ is a plugin's)
        said = f"its message can't be had: {type(failure).__name__}"
    return bounded(" ".join(f"{type(error).__name__}: {said}".split()))


def named(value: object) -> str:
    """Return what a plugin gave in a wrong place: the value if it is short."""
    if isinstance(value, str | int | float | None):
        return bounded(repr(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[:1] in 'aeiouAEIOU' else 'a'} {kind}"


def format_size(size: int) -> str:
    """Return a readable byte count: exact bytes, with binary units above 1 KiB."""
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 1024 or unit == "PiB":
            break
    return f"{value:.1f} {unit} ({size} bytes)"


def amount(size: int) -> str:
    """Return a byte count in three digits at most: ``40 GiB``, ``39.8 GiB``.

    Below a hundred, only what is exact has no decimal: ``40.0 GiB`` are nearly 40 GiB.
    """
    value, _ = _in_unit(size)
    return _rounded(size, digits=0 if abs(value) >= 99.95 else 1)


def compact(size: int) -> str:
    """Return an `amount` for a column of a table: ``40G``, ``1.5M``, ``512``."""
    number, unit = amount(size).split()
    return number if unit.startswith("byte") else number + unit[0]


def apart(one: int, other: int) -> tuple[str, str]:
    """Return two byte counts with as many digits as tell them apart."""
    if one == other or _in_unit(one)[1] != _in_unit(other)[1]:
        return amount(one), amount(other)
    for digits in (1, 2, 3, 4):
        if round(_in_unit(one)[0], digits) != round(_in_unit(other)[0], digits):
            return _rounded(one, digits=digits), _rounded(other, digits=digits)
    return f"{one} bytes", f"{other} bytes"


def short(*, needed: int, free: int) -> str:
    """Return ``40 GiB needed, 39.99 GiB free, short by 10.5 MiB``.

    No rounding hides the lack: the two differ, and the lack is that of the bytes.
    """
    much, little = apart(needed, free)
    return f"{much} needed, {little} free, short by {amount(needed - free)}"


def _in_unit(size: int) -> tuple[float, str]:
    """Return the number below a thousand, and its unit."""
    value, unit = float(size), "byte" if size == 1 else "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1024, larger
    return value, unit


def _rounded(size: int, *, digits: int) -> str:
    value, unit = _in_unit(size)
    return f"{value:.{0 if value == int(value) else digits}f} {unit}"


def share(part: int, whole: int, *, what: str) -> str:
    """Return ``28 GiB of holes, 70 %``: a part, and its share, never rounded up."""
    percent = 100 * part // whole if whole else 0
    return f"{amount(part)} {what}, {percent or 'under 1'} %"


def choices(words: Iterable[str], *, nearest_to: str) -> str:
    """Return ``allowed: a, b``, with ``; did you mean 'b'?`` when one is near."""
    listed = tuple(words)
    hinted = hint(listed, nearest_to=nearest_to)
    return f"allowed: {', '.join(listed) or 'nothing'}{hinted}"


def hint(words: Iterable[str], *, nearest_to: str) -> str:
    """Return ``; did you mean 'b'?`` for a similar word, or nothing."""
    import difflib  # for what is refused

    listed = tuple(words)
    near = difflib.get_close_matches(nearest_to, listed, n=1)
    near = near or [
        word for word in listed if nearest_to and word.startswith(nearest_to)
    ]
    return f"; did you mean {near[0]!r}?" if near else ""
