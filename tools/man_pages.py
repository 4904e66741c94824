"""Write the man pages of allocpolicy and of each of its commands, from their parsers.

python -m tools.man_pages DIRECTORY

They are set by docutils. The pages have no date: built twice, they are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from docutils import nodes
from docutils.core import publish_from_doctree
from docutils.utils import new_document

from allocpolicy import __version__
from tools.command_line import PROGRAM, Argument, Command, Group, Kind, commands

SECTION = "1"
# argparse's heading of those that have no other
_OPTIONS = "options"
STATUSES = (
    ("0", "It is done, or every disk keeps its promise."),
    ("1", "A disk has drifted, or something else is wrong that was asked about."),
    ("2", "The request is invalid: its words, a flavor, an image, a disk's state."),
    ("3", "There is not enough space."),
    ("4", "The storage can't do it."),
    ("5", "Anything else, such as a plugin that failed."),
    ("6", "The disk is there and complete, but what came after it failed."),
    ("10", "With --detailed-exitcode alone: something was changed, or would be."),
    ("129, 130, 143", "SIGHUP, Ctrl-C or SIGTERM ended it."),
)
FILES = (
    ("/etc/allocpolicy/allocpolicy.conf", "The operator's options."),
    ("/etc/allocpolicy/allocpolicy.conf.d/", "More of them: files *.conf."),
    ("/run/allocpolicy/", "Root's locks, and what is remembered until the next boot."),
    ("/etc/libvirt/hooks/qemu.d/50-allocpolicy", "The hook, where it is installed."),
)


def page_name(command: Command) -> str:
    """Return what its page is called, without the section."""
    return "-".join([PROGRAM, *command.name.split()])


def page(command: Command, *, among: Sequence[Command]) -> str:
    """Return a command's page."""
    document = _document(command)
    document += _synopsis(command)
    described = command.description.split("\n\n")[1:]
    if described:
        texts = [nodes.paragraph(text=" ".join(one.split())) for one in described]
        document += _section("description", *texts)
    if not command.name:
        document += _section("commands", _terms(_listed(among)))
    if command.places:
        document += _section("arguments", _terms(_named(command.places)))
    for group in command.groups:
        document += _section(_title(group), _terms(_named(group.options)))
    document += _section("exit status", _terms(_plain(STATUSES)))
    if not command.name:
        document += _section("files", _terms(_plain(FILES)))
    document += _section("see also", nodes.paragraph(text=_related(command, among)))
    set_ = publish_from_doctree(
        document, writer_name="manpage", settings_overrides={"report_level": 4}
    )
    return str(set_, encoding="utf-8")


def _document(command: Command) -> nodes.document:
    document = new_document(page_name(command))
    document += nodes.title(text=page_name(command))
    document += nodes.subtitle(text=command.summary)
    about = nodes.docinfo()
    about += nodes.version(text=f"{PROGRAM} {__version__}")
    for name, body in (
        ("Manual section", SECTION),
        ("Manual group", f"{PROGRAM}'s manual"),
    ):
        field = nodes.field("", nodes.field_name(text=name))
        field += nodes.field_body("", nodes.paragraph(text=body))
        about += field
    document += about
    return document


def _section(title: str, *content: nodes.Node) -> nodes.section:
    return nodes.section("", nodes.title(text=title.upper()), *content)


def _title(group: Group) -> str:
    return group.title or _OPTIONS


def _synopsis(command: Command) -> nodes.section:
    words = " ".join(filter(None, (PROGRAM, command.name)))
    line = nodes.paragraph("", "", nodes.strong(text=words), nodes.Text(" ["))
    line += [nodes.emphasis(text="OPTION"), nodes.Text(" …]")]
    if not command.name:
        line += [nodes.Text(" "), nodes.emphasis(text="COMMAND"), nodes.Text(" …")]
    for one in command.places:
        before, after = {"": ("", ""), "+": ("", " …"), "?": ("[", "]")}.get(
            one.nargs, ("[", " …]")
        )
        line += nodes.Text(f" {before}")
        line += [nodes.emphasis(text=one.metavar), nodes.Text(after)]
    return _section("synopsis", line)


Term = tuple[list[nodes.Node], str]


def _terms(terms: Iterator[Term]) -> nodes.definition_list:
    """Return a list of what is explained, and its explanations."""
    found = nodes.definition_list()
    for term, text in terms:
        item = nodes.definition_list_item("", nodes.term("", "", *term))
        item += nodes.definition("", nodes.paragraph(text=text))
        found += item
    return found


def _plain(pairs: Sequence[tuple[str, str]]) -> Iterator[Term]:
    for name, text in pairs:
        yield [nodes.strong(text=name)], text


def _listed(among: Sequence[Command]) -> Iterator[Term]:
    for one in among:
        if one.name:
            summary = f"{one.summary}. See {page_name(one)}({SECTION})."
            yield [nodes.strong(text=one.name)], summary


def _named(arguments: Sequence[Argument]) -> Iterator[Term]:
    for one in arguments:
        term: list[nodes.Node] = []
        for option in one.options:
            term += [nodes.Text(", ")] if term else []
            term += [nodes.strong(text=option)]
            if one.kind is not Kind.NOTHING:
                term += [nodes.Text(" "), nodes.emphasis(text=one.metavar)]
        yield term or [nodes.emphasis(text=one.metavar)], one.help


def _related(command: Command, among: Sequence[Command]) -> str:
    """Return the pages of the same kind, or the program's own."""
    first = command.name.split()[:1]
    same = [one for one in among if one.name.split()[:1] == first and one.name]
    names = [page_name(one) for one in same if one is not command]
    names = [PROGRAM, *names] if command.name else names
    return ", ".join([*(f"{one}({SECTION})" for one in names), "qemu-img(1)"])


def main(arguments: Sequence[str]) -> int:
    """Write the pages into a directory."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found = commands()
    for one in found:
        name = f"{page_name(one)}.{SECTION}"
        Path(arguments[0], name).write_text(page(one, among=found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
