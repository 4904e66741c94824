"""Write the completions of allocpolicy for bash, zsh and fish, from its parsers.

python -m tools.completions DIRECTORY

They are files that start no program: commands, options, what an option takes where that
is known, and paths. Neither needs anything but its shell. (cliff's own, of the command
``complete``, needs the package bash-completion, and serves bash alone.)
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.command_line import PROGRAM, Argument, Command, Kind, commands

HEAD = "# Written by tools/completions.py from the parsers of allocpolicy's commands.\n"
# A description is in one line with what it describes.
_LONGEST = 60


def bash(known: Sequence[Command]) -> str:
    """Return the completion for bash: a function, and no other of the session's names.

    ``=`` and ``:`` are words of their own for bash, as COMP_WORDBREAKS has them.
    """
    return HEAD + _BASH.format(
        program=PROGRAM,
        after="\n".join(_bash_after(known)),
        takers="\n".join(_bash_takers(known)),
        options="\n".join(_bash_options(known)),
        values="\n".join(_bash_values(known)),
        places="\n".join(_bash_places(known)),
    )


_BASH = """\
_{program}() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" command='' taker='' place=0
    local next takers word index
    COMPREPLY=()
    [ "$cur" != = ] || cur=''
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${{COMP_WORDS[index]}}"
        case "$command" in
{after}
        *) next='' ;;
        esac
        case "$command" in
{takers}
        esac
        if [ "$word" = = ]; then
            continue
        elif [ -n "$taker" ]; then
            taker=''
        elif [[ "$word" == -* ]]; then
            [[ "$takers" != *" $word "* ]] || taker="$word"
        elif [[ "$next" == *" $word "* ]]; then
            command="${{command:+$command }}$word"
        else
            ((++place))
        fi
    done
    local words='' action=''
    if [ -n "$taker" ]; then
        case "$command $taker" in
{values}
        esac
    elif [[ "$cur" == -* ]]; then
        case "$command" in
{options}
        esac
    else
        case "$command" in
{after}
        *) next='' ;;
        esac
        words="$next"
        [ -n "$next" ] || case "$command $place" in
{places}
        esac
    fi
    if [ -n "$action" ]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\\n'
        # shellcheck disable=SC2207  # a name in a line
        COMPREPLY=($(compgen -A "$action" -- "$cur"))
    else
        # shellcheck disable=SC2207  # words have neither spaces nor patterns
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    fi
}}
complete -F _{program} {program}
"""


def _after(known: Sequence[Command]) -> dict[str, list[str]]:
    """Return what may follow the first words of a command."""
    following: dict[str, list[str]] = {}
    for one in known:
        words = one.name.split()
        for index, word in enumerate(words):
            there = following.setdefault(" ".join(words[:index]), [])
            if word not in there:
                there.append(word)
    return following


def _bash_after(known: Sequence[Command]) -> Iterator[str]:
    for before, words in _after(known).items():
        yield f"        {shlex.quote(before)}) next={shlex.quote(_spaced(words))} ;;"


def _bash_takers(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        takers = shlex.quote(_spaced(_takers(one)))
        yield f"        {shlex.quote(one.name)}) takers={takers} ;;"
    yield "        *) takers='' ;;"


def _bash_options(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        words = " ".join(_long_first(one))
        yield f"        {shlex.quote(one.name)}) words={shlex.quote(words)} ;;"


def _bash_values(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        for option in one.options:
            for name in option.options:
                if action := _bash_action(option):
                    yield f"        {shlex.quote(f'{one.name} {name}')}) {action} ;;"


def _bash_places(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        for index, argument in enumerate(one.places):
            number = "*" if argument.nargs in ("*", "+") else str(index)
            if action := _bash_action(argument):
                yield f"        {shlex.quote(one.name)}\\ {number}) {action} ;;"


def _bash_action(argument: Argument) -> str:
    match argument.kind:
        case Kind.WORDS:
            return f"words={shlex.quote(' '.join(argument.words))}"
        case Kind.FILE:
            return "action='file'"
        case Kind.DIRECTORY:
            return "action='directory'"
    return ""


def _spaced(words: Sequence[str]) -> str:
    """Return the words, each with a space on both sides, to be searched for."""
    return f" {' '.join(words)} " if words else ""


def _takers(command: Command) -> list[str]:
    """Return the names of the options that take something."""
    found = (one for one in command.options if one.kind is not Kind.NOTHING)
    return [name for one in found for name in one.options]


def _long_first(command: Command) -> list[str]:
    names = [name for one in command.options for name in one.options]
    return sorted(names, key=lambda name: (not name.startswith("--"), name))


def zsh(known: Sequence[Command]) -> str:
    """Return the completion for zsh, by its own ``_arguments``."""
    return _ZSH.format(
        head=HEAD,
        program=PROGRAM,
        after="\n".join(_zsh_after(known)),
        takers=shlex.quote("|".join(_takers(known[0]))),
        specs="\n".join(_zsh_specs(known)),
    )


_ZSH = """\
#compdef {program}
{head}
_{program}() {{
    local command= word= index=2 skip=0 first=2
    local -a following
    local -A after=(
{after}
    )
    for (( index = 2; index < CURRENT; index++ )); do
        word=${{words[index]}}
        if (( skip )); then
            skip=0
        elif [[ $word = -* ]]; then
            [[ -z $command && "|"{takers}"|" = *"|$word|"* ]] && skip=1
        elif [[ " ${{after[_$command]}} " = *" $word "* ]]; then
            command="${{command:+$command }}$word"
            first=$index
        else
            break
        fi
    done
    following=(${{=after[_$command]}})
    if (( $#following )) && [[ ${{words[CURRENT]}} != -* ]] && (( ! skip )); then
        compadd -a following
        return
    fi
    if [[ -n $command ]]; then
        words=("{program} $command" "${{(@)words[first + 1, -1]}}")
        (( CURRENT -= first - 1 ))
    fi
    case $command in
{specs}
    esac
}}

if [[ $funcstack[1] = _{program} ]]; then
    _{program} "$@"
else
    compdef _{program} {program}
fi
"""


def _zsh_after(known: Sequence[Command]) -> Iterator[str]:
    for before, words in _after(known).items():
        key, value = shlex.quote(f"_{before}"), shlex.quote(" ".join(words))
        yield f"        {key} {value}"


def _zsh_specs(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        specs = [*map(_zsh_option, one.options)]
        specs += [_zsh_place(index, arg) for index, arg in enumerate(one.places, 1)]
        yield f"    {shlex.quote(one.name)})"
        yield "        _arguments \\"
        yield " \\\n".join(f"            {spec}" for spec in specs)
        yield "        ;;"


def _zsh_option(option: Argument) -> str:
    about = f"[{_zsh_text(_short(option.help))}]"
    if option.kind is not Kind.NOTHING:
        about += f":{_zsh_text(option.metavar)}:{_zsh_action(option)}"
    if option.repeats:
        return " ".join(_zsh_quote(f"*{name}{about}") for name in option.options)
    others = f"({' '.join(option.options)})" if len(option.options) > 1 else ""
    return " ".join(_zsh_quote(f"{others}{name}{about}") for name in option.options)


def _zsh_place(index: int, argument: Argument) -> str:
    place = {"*": "*", "+": "*", "?": f"{index}:"}.get(argument.nargs, str(index))
    return _zsh_quote(f"{place}:{_zsh_text(argument.metavar)}:{_zsh_action(argument)}")


def _zsh_action(argument: Argument) -> str:
    match argument.kind:
        case Kind.WORDS:
            return f"({' '.join(argument.words)})"
        case Kind.FILE:
            return "_files"
        case Kind.DIRECTORY:
            return "_files -/"
    return " "


def _zsh_text(text: str) -> str:
    """Return text in which nothing has a meaning for ``_arguments``."""
    return "".join(f"\\{one}" if one in "\\[]:" else one for one in text)


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(known: Sequence[Command]) -> str:
    """Return the completion for fish."""
    return HEAD + _FISH.format(
        program=PROGRAM,
        takers=" ".join(_takers(known[0])),
        names=" ".join(_fish_quote(one.name) for one in known if one.name),
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
    for before, words in _after(known).items():
        for word in words:
            summary = summaries.get(f"{before} {word}".strip(), "")
            about = _fish_quote(_short(summary)) if summary else "''"
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
    about = f"-d {_fish_quote(_short(option.help))}"
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


def _short(text: str) -> str:
    """Return the beginning of a help, to be shown beside a word."""
    first = re.split(r"; | \(|: ", text, maxsplit=1)[0]
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"


# Where Debian keeps them; bash's is found by its name, zsh's by the underscore.
FILES: tuple[tuple[str, Callable[[Sequence[Command]], str]], ...] = (
    (PROGRAM, bash),
    (f"_{PROGRAM}", zsh),
    (f"{PROGRAM}.fish", fish),
)


def main(arguments: Sequence[str]) -> int:
    """Write the files into a directory."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    known = commands()
    for name, written in FILES:
        Path(arguments[0], name).write_text(written(known), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
