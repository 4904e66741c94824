"""The completion for fish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.command_line import PROGRAM, Argument, Command, Kind
from tools.completion import HEAD, after, names, short, takers


def write(known: Sequence[Command]) -> str:
    """Return the completion for fish."""
    return HEAD + _FISH.format(
        program=PROGRAM,
        takers=" ".join(takers(known[0])),
        names=" ".join(map(_fish_quote, names(known))),
        lines="\n".join(_fish_lines(known)),
    )


_FISH = """\
function __{program}_command --description 'The command so far'
    set -l found
    set -l skip 0
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test $skip -eq 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word {takers}; and set skip 1
        else if string match -q -- (string join ' ' $found $word)'*' {names}
            set found $found $word
        else
            break
        end
    end
    string join ' ' $found
end

function __{program}_is
    set -l command (__{program}_command)
    test "$command" = "$argv"
end

complete -c {program} -f
{lines}
"""


def _fish_lines(known: Sequence[Command]) -> Iterator[str]:
    summaries = {one.name: one.summary for one in known}
    for before, words in after(known).items():
        for word in words:
            summary = summaries.get(f"{before} {word}".strip(), "")
            about = _fish_quote(short(summary)) if summary else "''"
            yield f"{_fish_line(before)} -a {word} -d {about}"
    for one in known:
        for option in one.options:
            yield f"{_fish_line(one.name)} {_fish_option(option)}"
        for action in {_fish_place(argument) for argument in one.places} - {""}:
            yield f"{_fish_line(one.name)} {action}"


def _fish_line(command: str) -> str:
    condition = f"__{PROGRAM}_is {command}".strip()
    return f"complete -c {PROGRAM} -n {_fish_quote(condition)}"


def _fish_option(option: Argument) -> str:
    names = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.options
    ]
    takes = {
        Kind.NOTHING: "",
        Kind.WORDS: f"-x -a {_fish_quote(' '.join(option.words))}",
        Kind.FILE: "-r -F",
        Kind.DIRECTORY: "-x -a '(__fish_complete_directories)'",
        Kind.TEXT: "-x",
    }[option.kind]
    about = f"-d {_fish_quote(short(option.help))}"
    return " ".join(filter(None, (*names, takes, about)))


def _fish_place(argument: Argument) -> str:
    match argument.kind:
        case Kind.WORDS:
            return f"-a {_fish_quote(' '.join(argument.words))}"
        case Kind.FILE:
            return "-F"
        case Kind.DIRECTORY:
            return "-a '(__fish_complete_directories)'"
    return ""


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
