"""The completion for bash: a function that needs no other, and leaves no other."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from tools.command_line import PROGRAM, Argument, Command, Kind
from tools.completion import HEAD, after, takers


def write(known: Sequence[Command]) -> str:
    """Return the completion for bash: a function, and no other of the session's names.

    ``=`` and ``:`` are words of their own for bash where COMP_WORDBREAKS has them.
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
    local command='' taker='' place=0 next takers word index
    local -a typed=()
    local IFS=$' \\t\\n'
    local cur rest="$COMP_LINE" last="${{COMP_WORDS[COMP_CWORD]}}"
    COMPREPLY=()
    # What is between spaces is one word, whatever COMP_WORDBREAKS has.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word="${{COMP_WORDS[index]}}"
        if ((index > 0)) && [[ -n "$word" && "$rest" == "$word"* ]]; then
            typed[${{#typed[@]}}-1]+="$word"
        else
            rest="${{rest#"${{rest%%[![:space:]]*}}"}}"
            typed+=("$word")
        fi
        rest="${{rest#"$word"}}"
    done
    cur="${{typed[${{#typed[@]}}-1]}}"
    for ((index = 1; index < ${{#typed[@]}} - 1; index++)); do
        word="${{typed[index]}}"
        case "$command" in
{after}
        *) next='' ;;
        esac
        case "$command" in
{takers}
        esac
        if [ -n "$taker" ]; then
            taker=''
        elif [[ "$word" == -* ]]; then
            [[ "$takers" != *" $word "* ]] || taker="$word"
        elif [[ "$next" == *" $word "* ]]; then
            command="${{command:+$command }}$word"
        else
            ((++place))
        fi
    done
    local words='' action='' before='' there
    if [[ -z "$taker" && "$cur" == --*=* ]]; then
        taker="${{cur%%=*}}"
        before="$taker="
        cur="${{cur#*=}}"
    fi
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
        mapfile -t COMPREPLY < <(compgen -A "$action" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
    # bash replaces what follows the last of COMP_WORDBREAKS, and nothing before it.
    case "$last" in [=:]*) last="${{last##*[=:]}}" ;; esac
    there="$before$cur"
    there="${{there%"$last"}}"
    for index in "${{!COMPREPLY[@]}}"; do
        word="$before${{COMPREPLY[index]}}"
        COMPREPLY[index]="${{word#"$there"}}"
    done
}}
complete -F _{program} {program}
"""


def _bash_after(known: Sequence[Command]) -> Iterator[str]:
    for before, words in after(known).items():
        yield f"        {shlex.quote(before)}) next={shlex.quote(_spaced(words))} ;;"


def _bash_takers(known: Sequence[Command]) -> Iterator[str]:
    for one in known:
        named = shlex.quote(_spaced(takers(one)))
        yield f"        {shlex.quote(one.name)}) takers={named} ;;"
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


def _long_first(command: Command) -> list[str]:
    names = [name for one in command.options for name in one.options]
    return sorted(names, key=lambda name: (not name.startswith("--"), name))
