"""Help on a terminal: in its pager, with its colours."""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import TextIO

import autopage.argparse


def show_help(parser: argparse.ArgumentParser, *, stream: TextIO | None = None) -> int:
    """Show a parser's help on a stream, by default stdout; return the exit status."""
    pager = autopage.argparse.help_pager(stream or sys.stdout)
    parser.formatter_class = _Formatter
    with pager as out, autopage.argparse.monkey_patch():
        autopage.argparse.use_color_for_parser(parser, pager.to_terminal())
        parser.print_help(out)
    return pager.exit_code()


class _Formatter(autopage.argparse.HelpFormatter):
    """Keeps the lines of a help that has several, as one of a plugin's may."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = (super(_Formatter, self)._split_lines(x, width) for x in _lines(text))
        return list(itertools.chain.from_iterable(lines))


def _lines(text: str) -> list[str]:
    return text.splitlines() if "\n" in text else [text]
