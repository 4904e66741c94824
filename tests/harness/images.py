"""Real disk images for tests, made by mke2fs and qemu-img."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 1 << 20
GIB = 1 << 30


def qemu_img(*arguments: object) -> str:
    """Run qemu-img and return what it printed."""
    command = ["qemu-img", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def info(path: Path, *, format: str) -> dict[str, Any]:
    """Return what qemu-img says of an image."""
    answer = qemu_img("info", "--output=json", "-U", "-f", format, path)
    document: dict[str, Any] = json.loads(answer)
    return document


def check(path: Path) -> dict[str, Any]:
    """Return the result of qemu-img check of a qcow2; it fails on errors and leaks."""
    answer = qemu_img("check", "--output=json", "-f", "qcow2", path)
    document: dict[str, Any] = json.loads(answer)
    return document


def fully_mapped(path: Path) -> bool:
    """Return whether every cluster of a qcow2 has a host offset, asking qemu-img.

    One in its own file: those of a raw base image have offsets, too.
    """
    answer = qemu_img("map", "--output=json", "-f", "qcow2", path)
    return all("offset" in run and run["depth"] == 0 for run in json.loads(answer))


def same_content(first: Path, second: Path, *, formats: tuple[str, str]) -> bool:
    """Return whether a guest would read the same; what one has more must be zero."""
    command = ["qemu-img", "compare", "-f", formats[0], "-F", formats[1]]
    finished = subprocess.run([*command, first, second], check=False)
    return finished.returncode == 0


def make_whole(raw: Path, *, size: int) -> Path:
    """Make a raw image with data at its beginning and in its last sector."""
    with raw.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(size - 512)
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(512))
    return raw


def make_base(directory: Path, *, size: int = 64 * MIB) -> Path:
    """Make a raw ext4 image with three files, and their checksums beside it."""
    files = directory / "files"
    files.mkdir()
    generator = random.Random(42)
    for name, length in (("kernel", 3 * MIB + 17), ("initrd", MIB), ("empty", 0)):
        (files / name).write_bytes(generator.randbytes(length))
    base = directory / "base.raw"
    with base.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", files, base], check=True)
    return base


def checksums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of `make_base`, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((directory / "files").iterdir())
    }


def convert(
    base: Path, *, format: str, options: str = "", compress: bool = False
) -> Path:
    """Return the raw base image in another format, beside it."""
    suffix = options.rpartition("=")[2]
    target = base.with_name(f"base-{suffix}-{compress:d}.{format}")
    arguments = ["-c"] if compress else []
    arguments += ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", format, *arguments, base, target)
    return target


def qemu_io(path: Path, *commands: str, format: str, discard: str = "ignore") -> None:
    """Let QEMU's block layer write to an image as a guest would."""
    options = [argument for command in commands for argument in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", format, "-d", discard, *options, path],
        check=True,
        capture_output=True,
    )


@contextmanager
def held_by_qemu(disk: Path, *, format: str) -> Iterator[None]:
    """Let a real QEMU have an image open for a guest that may write to it."""
    blockdev = f"driver={format},node-name=d,file.driver=file,file.filename={disk}"
    with tempfile.TemporaryDirectory() as directory:
        server = f"addr.type=unix,addr.path={directory}/socket"
        process = subprocess.Popen(
            [
                *("qemu-storage-daemon", "--blockdev", blockdev),
                *("--nbd-server", server),
                *("--export", "type=nbd,id=e,node-name=d,writable=on"),
                *("--chardev", "stdio,id=c", "--monitor", "chardev=c"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # its greeting: the image is open by then
        try:
            yield
        finally:
            process.stdin.close()
            process.stdout.close()
            process.terminate()
            process.wait()


def mapped_offset(image: Path, guest_offset: int) -> int:
    """Return where an uncompressed qcow2 has a byte of the guest's, says QEMU."""
    found = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", image))
    for run in found:
        inside = guest_offset - run["start"]
        if 0 <= inside < run["length"]:
            return int(run["offset"] + inside)
    raise ValueError(f"{image} ends before {guest_offset}")
