"""What a plugin's own commands are made of: the entry points ``allocpolicy.commands``.

A command is a subclass of `ShowOne` (one thing, by name), `Lister` (rows) or `Command`
(neither; it prints what it likes). `add_arguments` declares its arguments with
argparse; the work is in ``show``, ``rows`` or ``take_action``. What people see of it is
made of `column`, `size` and `sentence`, or is in ``screen``. Its errors are one line
on stderr: any `allocpolicy.Error` with its exit status, and whatever else it raises as
the failure of its distribution, exit status 5.

This is the only public module beside `allocpolicy`: it imports argparse, which programs
that create disks need not do.
"""

from __future__ import annotations

from allocpolicy.cli.command import Lister, Row, ShowOne
from allocpolicy.cli.options.disk_format import add as add_disk_format
from allocpolicy.cli.running import Command
from allocpolicy.cli.screens.cells import lines, structured
from allocpolicy.cli.screens.columns import Column, Data, column, sentence, size
from allocpolicy.cli.streams.progress import shown as progress

__all__ = [
    "Column",
    "Command",
    "Data",
    "Lister",
    "Row",
    "ShowOne",
    "add_disk_format",
    "column",
    "lines",
    "progress",
    "sentence",
    "size",
    "structured",
]
