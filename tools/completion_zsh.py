"""The completion for zsh, by its own ``_arguments``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from tools.command_line import PROGRAM, Argument, Command, Kind
from tools.completion import HEAD, after, short, takers


def write(known: Sequence[Command]) -> str:
    """Return the completion for zsh, by its own ``_arguments``."""
    return _ZSH.format(
        head=HEAD,
        program=PROGRAM,
        after="\n".join(_zsh_after(known)),
        takers=shlex.quote("|".join(takers(known[0]))),
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
    for before, words in after(known).items():
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
    about = f"[{_zsh_text(short(option.help))}]"
    names = option.options
    if option.kind is not Kind.NOTHING:
        about += f":{_zsh_text(option.metavar)}:{_zsh_action(option)}"
        # what it takes may be in the same word: --size=40G, -fjson
        names = tuple(f"{one}{'=' if one[:2] == '--' else '+'}" for one in names)
    if option.repeats:
        return " ".join(_zsh_quote(f"*{name}{about}") for name in names)
    others = f"({' '.join(option.options)})" if len(names) > 1 else ""
    return " ".join(_zsh_quote(f"{others}{name}{about}") for name in names)


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
