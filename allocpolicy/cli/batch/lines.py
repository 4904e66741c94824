"""The orders of a batch: lines of JSON, as they come, or a list in YAML.

Lines are read as there is work for them, and none of them harms another: one that is
no order says why. YAML is read as a whole, and refused if it is no list.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass, field
from allocpolicy.resolve import strict_file
from allocpolicy.schema import Invalid
from allocpolicy.wording import named

STDIN = "-"
LONGEST = 64 << 10  #: bytes of a line
_PIECE = 64 << 10
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_YAML = (".yaml", ".yml")
_YAML_BEGINS = b"-[#%"  # no line of JSON that is an order begins so


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An order of a batch, by its keys, or why it is none; ``number`` is from 1.

    ``is_alike``: one before it asks for such a disk.
    """

    number: int
    given: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""
    is_alike: bool = False

    @property
    def disk(self) -> str | None:
        """Return the path of its disk, as far as it says one."""
        disk = self.given.get("disk")
        return disk if isinstance(disk, str) else None


class Lines:
    """The lines of an open file; None among them says that there is none yet.

    ``source`` will have more then; None: the file never keeps one waiting.
    """

    def __init__(self, fd: int, *, name: str) -> None:
        self._fd, self._name = fd, name
        waits = not stat.S_ISREG(os.fstat(fd).st_mode)
        self.source = fd if waits else None

    def __iter__(self) -> Iterator[Line | None]:
        begin = b""
        for piece in self._pieces():
            if piece is None:
                yield None
                continue
            begin = (begin + piece).removeprefix(_BOM)
            if text := begin.lstrip(_BLANK):
                if self._name.endswith(_YAML) or text[:1] in _YAML_BEGINS:
                    yield from self._of_yaml(begin)
                else:
                    yield from self._of_json(begin)
                return

    def _pieces(self) -> Iterator[bytes | None]:
        """Yield what can be read; None where that isn't there yet.

        :raises InvalidRequest: when the file can't be read.
        """
        while True:
            if self.source is not None and not select.select([self._fd], [], [], 0)[0]:
                yield None
                continue
            try:
                piece = os.read(self._fd, _PIECE)
            except OSError as error:
                raise _unread(self._name, error) from error
            if not piece:
                return
            yield piece

    def _of_json(self, begin: bytes) -> Iterator[Line | None]:
        number = 0
        for whole in self._split(begin):
            if whole is None:
                yield None
                continue
            number += 1
            if (line := _line(number, whole)) is not None:
                yield line

    def _split(self, rest: bytes) -> Iterator[bytes | None]:
        """Yield lines; of one that is too long, only so much that it is seen."""
        cut = b""
        for piece in itertools.chain((b"",), self._pieces()):
            if piece is None:
                yield None
                continue
            *whole, rest = (rest + piece).split(b"\n")
            for one in whole:
                yield cut or one
                cut = b""
            if len(rest) > LONGEST:
                cut, rest = rest, b""
        if cut or rest:
            yield cut or rest

    def _of_yaml(self, begin: bytes) -> Iterator[Line | None]:
        """Yield the items of a list.

        :raises InvalidRequest: when it is none.
        """
        content = begin
        for piece in self._pieces():
            if piece is None:
                yield None
            else:
                content += piece
            if len(content) > strict_file.SIZE_LIMIT:
                reason = f"it is larger than {strict_file.SIZE_LIMIT} bytes"
                raise InvalidRequest(f"{self._name}: {reason}; give lines of JSON")
        try:
            items = strict_file.yaml_items(content)
        except Invalid as error:
            raise InvalidRequest(f"{self._name}: {error}") from error
        for item in items:
            if item.problem:
                yield Line(number=item.line, problem=item.problem)
            else:
                yield _checked(item.line, item.data)


def _line(number: int, content: bytes) -> Line | None:
    """Return the order of a line; None of a blank one."""
    if not content.strip(_BLANK):
        return None
    try:
        return _checked(number, _parsed(content))
    except Invalid as error:
        return Line(number=number, problem=str(error))


def _parsed(content: bytes) -> object:
    """Return the data in a line.

    :raises Invalid: when it is too long, or not valid.
    """
    if len(content) > LONGEST:
        raise Invalid(f"it is longer than {LONGEST} bytes")
    try:
        return strict_file.json_of(content.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"it is not UTF-8 text (at byte {error.start})") from error
    except json.JSONDecodeError as error:
        place = f"column {error.colno}"
        raise Invalid(f"it is not valid JSON: {place}: {error.msg}") from error
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error
    except ValueError as error:  # a number of more than 4300 digits, or Invalid
        raise Invalid(str(error)) from error


def _checked(number: int, found: object) -> Line:
    if not isinstance(found, dict):
        problem = f'it is {named(found)}: give an object, such as {{"disk": …}}'
        return Line(number=number, problem=problem)
    return Line(number=number, given=found)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Lines]:
    """Open a batch; ``-`` is standard input.

    :raises InvalidRequest: when it can't be opened.
    """
    if str(path) == STDIN:
        yield Lines(sys.stdin.fileno(), name="standard input")
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unread(str(path), error) from error
    try:
        yield Lines(fd, name=str(path))
    finally:
        os.close(fd)


def _unread(name: str, error: OSError) -> InvalidRequest:
    return InvalidRequest(f"--batch {name}: {error.strerror}")
