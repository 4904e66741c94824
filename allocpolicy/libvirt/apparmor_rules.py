"""What an AppArmor profile lets be executed, read from its text (apparmor.d(5)).

The text is what the daemon's profile was loaded from, unless somebody changed it since.
Only rules about files with an execute permission are read, and variables and includes
as far as those take them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Mapping

from allocpolicy.record import dataclass

#: Returns the texts that an include's name stands for: ``local/usr.sbin.libvirtd``.
Included = Callable[[str], tuple[str, ...]]

_DEEPEST = 10  # includes in includes, and variables in variables
_INCLUDE = re.compile(r'#?include\s+(?:if\s+exists\s+)?[<"]([^>"]+)[>"]$')
_VARIABLE = re.compile(r"(@\{\w+\})\s*\+?=\s*(.+)$")
_REFERENCE = re.compile(r"@\{\w+\}")
_HEADER = re.compile(
    r'(?:profile\s+)?(?P<name>"[^"]+"|\S+)(?:\s+(?P<attached>"[^"]+"|[/@]\S+))?'
    r"(?:\s+(?:flags=|xattrs=)?\([^)]*\))*\s*\{$"
)
_QUALIFIERS = re.compile(r"(?:(?:audit|allow|deny|owner|file|priority=-?\d+)\s+)+")
_PATH = r'(?P<path>"[^"]+"|[/@]\S*)'
_RULES = (
    re.compile(rf"{_PATH}\s+(?P<permissions>[a-zA-Z]+)(?:\s*->.*)?$"),
    re.compile(rf"(?P<permissions>[a-zA-Z]+)\s+{_PATH}(?:\s*->.*)?$"),
)
_TRANSITION = re.compile(r"([pPuUcCi]+)x")

_ANY = {"**": r"[^\0]", "*": r"[^/\0]"}
_ALTERNATIVES = {"{": "(?:", ",": "|", "}": ")"}


class Execution(enum.Enum):
    """How a confined daemon may execute a program; words for people and documents."""

    #: within the daemon's profile, whose rules hold for the program
    WITHIN = "within the profile"
    #: without it: by no profile, or by the program's own
    WITHOUT = "without the profile"
    #: not at all
    REFUSED = "refused"
    #: the rules could not be read
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of one profile: those that grant the execution, and those that deny."""

    granted: tuple[tuple[str, Execution], ...]
    denied: tuple[str, ...]

    def execution(self, path: str) -> Execution:
        """Return how a program may be executed; the path has no symbolic links.

        Of several rules the one without wildcards counts, then the longest.
        """
        if any(_matches(pattern, path) for pattern in self.denied):
            return Execution.REFUSED
        found = [rule for rule in self.granted if _matches(rule[0], path)]
        if not found:
            return Execution.REFUSED
        _, execution = max(found, key=lambda rule: (rule[0] == path, len(rule[0])))
        return execution


def parsed(text: str, *, profile: str, included: Included) -> Rules | None:
    """Return the rules of a profile in a file's text; None if it isn't in it.

    :param profile: as /proc/PID/attr/current has it.
    """
    lines = tuple(_lines(text, included, depth=0))
    variables = _variables(lines)
    inside = _inside(lines, profile)
    if inside is None:
        return None
    granted: list[tuple[str, Execution]] = []
    denied: list[str] = []
    for line in inside:
        for path, execution in _executed(line):
            for pattern in _expanded(path, variables):
                if execution is Execution.REFUSED:
                    denied.append(pattern)
                else:
                    granted.append((pattern, execution))
    return Rules(granted=tuple(granted), denied=tuple(denied))


def _lines(text: str, included: Included, *, depth: int) -> Iterator[str]:
    """Yield the lines with those of includes, without comments and commas."""
    for raw in text.splitlines():
        line = raw.strip()
        if match := _INCLUDE.match(line):
            if depth < _DEEPEST:
                for other in included(match[1]):
                    yield from _lines(other, included, depth=depth + 1)
            continue
        line = re.sub(r"(^|\s)#.*", "", line).strip().removesuffix(",").rstrip()
        if line:
            yield line


def _variables(lines: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        if match := _VARIABLE.match(line):
            values = tuple(value.strip('"') for value in match[2].split())
            found[match[1]] = (*found.get(match[1], ()), *values)
    return found


def _inside(lines: tuple[str, ...], profile: str) -> tuple[str, ...] | None:
    """Return the lines of the profile itself, not of those within it."""
    found: list[str] | None = None
    names: list[str | None] = []  # of the blocks that we are in
    for line in lines:
        if line == "}":
            names = names[:-1]
        elif match := _HEADER.match(line):
            names = [*names, match["name"].strip('"')]
            if names == [profile]:
                found = []
        elif names == [profile] and found is not None:
            found.append(line)
    return tuple(found) if found is not None else None


def _executed(line: str) -> Iterator[tuple[str, Execution]]:
    """Yield the path that a rule is about, if it says how that is executed."""
    qualifiers = match[0] if (match := _QUALIFIERS.match(f"{line} ")) else ""
    rule = line[len(qualifiers) :].strip()
    if not rule and "file" in qualifiers:  # all files
        yield "/**", Execution.WITHIN
    for form in _RULES:
        if not (match := form.match(rule)):
            continue
        path, permissions = match["path"].strip('"'), match["permissions"]
        if "deny" in qualifiers.split():
            if "x" in permissions:
                yield path, Execution.REFUSED
        elif transition := _TRANSITION.search(permissions):
            # pix: by a profile of its own, if there is one; Cx: by one within ours
            stays = bool(set(transition[1].lower()) & {"i", "c"})
            yield path, Execution.WITHIN if stays else Execution.WITHOUT
        return


def _expanded(
    path: str, variables: Mapping[str, tuple[str, ...]], *, depth: int = 0
) -> Iterator[str]:
    """Yield the patterns that a path with variables stands for."""
    match = _REFERENCE.search(path)
    if match is None:
        yield re.sub("//+", "/", path)
    elif depth < _DEEPEST:
        for value in variables.get(match[0], ()):
            one = path.replace(match[0], value)
            yield from _expanded(one, variables, depth=depth + 1)


def _matches(pattern: str, path: str) -> bool:
    return re.fullmatch(_regular(pattern), path) is not None


def _regular(pattern: str) -> str:
    """Return the regular expression of a path's wildcards: AARE in apparmor.d(5)."""
    depth, made, before = 0, "", ""
    for part in re.findall(r"\\.|\*\*|\[[^]]*\]|.", pattern):
        if part in _ANY:  # the whole name of a directory is no name in it
            made += _ANY[part] + ("+" if before == "/" else "*")
        elif part == "{" or (depth and part in _ALTERNATIVES):
            depth += {"{": 1, "}": -1}.get(part, 0)
            made += _ALTERNATIVES[part]
        elif part[0] == "[" and len(part) > 1:
            made += part
        else:
            made += "[^/]" if part == "?" else re.escape(part[-1])
        before = part
    return made + ")" * depth
