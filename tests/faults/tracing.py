"""Running commands under the tracer, which is compiled here, and reading its log."""

from __future__ import annotations

import functools
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.calls import Call, Fault, Whose
from tests.harness.cli import environment
from tests.harness.filesystems import Unavailable, require_program
from tests.harness.patience import PATIENCE

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a traced command ended; ``status`` is None where a signal ended it."""

    status: int | None
    stdout: str
    stderr: str
    calls: tuple[Call, ...]

    @property
    def injected(self) -> Call | None:
        """The call that met the fault; None if the command came to none such."""
        return next((call for call in self.calls if call.injected), None)


class Commands:
    """Commands to be traced, with the modules that they import imported already."""

    def __init__(self, server: subprocess.Popen[str], directory: Path) -> None:
        self._server = server
        self._output = directory / "output"

    def learn(self, arguments: Sequence[object]) -> None:
        """Run a command untraced, once: it imports what others like it will."""
        self._ask(learn=list(map(str, arguments)))

    def run(
        self,
        arguments: Sequence[object],
        *,
        below: Path,
        call: Call | None = None,
        fault: Fault | None = None,
    ) -> Ended:
        """Run a command to its end; count its calls about files below a directory.

        :param call: the call of an earlier run at which the fault is to be met.
        """
        request: dict[str, Any] = {
            "arguments": list(map(str, arguments)),
            "below": f"{below}/",
            "output": str(self._output),
        }
        if call and fault:
            request |= {"other": int(call.whose is Whose.PROGRAM), "name": call.name}
            request |= {"at": call.number}
            request |= {"action": int(fault.action), "value": fault.value}
        code = os.waitstatus_to_exitcode(self._ask(**request))
        return Ended(
            status=None if code < 0 else code,
            stdout=self._text("stdout"),
            stderr=self._text("stderr"),
            calls=tuple(map(parsed, self._text("calls").splitlines())),
        )

    def _ask(self, **request: object) -> int:
        assert self._server.stdin and self._server.stdout
        print(json.dumps(request), file=self._server.stdin, flush=True)
        ready, _, _ = select.select([self._server.stdout], [], [], PATIENCE)
        assert ready, f"it does not end: {request}"
        answer = self._server.stdout.readline()
        assert answer, f"the tracer ended: {request}"
        return int(answer)

    def _text(self, suffix: str) -> str:
        path = self._output.with_suffix(f".{suffix}")
        return path.read_text(encoding="utf-8", errors="surrogateescape")


def parsed(line: str) -> Call:
    """Return the call that a line of the tracer's log tells of."""
    whose, number, mark, named, name, *arguments, path = line.split(" ", 8)
    return Call(
        whose=Whose(whose),
        number=int(number),
        injected=mark == "!",
        by_name=named == "n",
        name=name,
        arguments=tuple(int(word, 16) for word in arguments),
        path=path,
    )


@contextmanager
def commands(**variables: str) -> Iterator[Commands]:
    """Have the process that runs commands under the tracer, in this environment.

    :raises Unavailable: where there is no compiler, or the machine is another one.
    """
    variables = environment(**variables)
    variables.pop("PYTHONUNBUFFERED", None)  # a call for each word of the output
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        server = subprocess.Popen(
            [sys.executable, "-P", HERE / "victim.py", compiled(Path(directory))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        try:
            yield Commands(server, Path(directory))
        finally:
            assert server.stdin and server.stdout
            server.stdin.close()
            server.stdout.close()
            server.kill()  # traced commands end with it: PTRACE_O_EXITKILL
            server.wait()


def compiled(directory: Path) -> Path:
    """Compile the tracer; return the path of the library."""
    if platform.machine() != "x86_64":
        raise Unavailable("the tracer knows the registers of x86_64 only")
    library = directory / "tracer.so"
    library.write_bytes(_compiled())
    return library


@functools.cache
def _compiled() -> bytes:
    compiler = require_program("cc")
    with tempfile.TemporaryDirectory(prefix="tracer-") as directory:
        library = Path(directory) / "tracer.so"
        subprocess.run(
            [
                *(compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
                *("-o", library, HERE / "tracer.c"),
            ],
            check=True,
        )
        return library.read_bytes()
