"""``provision --batch``: each line as if it were alone, and told in its order."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.cli.batch import lines
from allocpolicy.cli.batch.order import KEYS
from allocpolicy.images.formats import FORMATS
from tests.harness import images, ordinary_user
from tests.harness.cli import Finished, allocpolicy, at_once, command, environment
from tests.harness.images import MIB
from tests.harness.schemas import SCHEMAS

Result = dict[str, Any]
FLAVORS = """\
flavors:
  small: {extra_specs: {allocpolicy:strategy: space}, sizes: {root: 2M, swap: 1M}}
"""


def batch(
    directory: Path, content: str | bytes, *options: object, name: str = "orders"
) -> tuple[list[Result], Finished]:
    """Run a batch; return its results, and all that it left."""
    file = directory / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    finished = allocpolicy("provision", "--batch", file, "--jobs", 2, *options)
    file.unlink()
    return [json.loads(line) for line in finished.stdout.splitlines()], finished


def line(disk: Path | str, **more: object) -> str:
    return json.dumps({"disk": str(disk), "size": "1M", **more}) + "\n"


def test_results_are_in_the_order_of_the_lines(tmp_path: Path) -> None:
    disks = [tmp_path / f"disk-{number}" for number in range(30)]
    results, finished = batch(tmp_path, "".join(map(line, disks)))
    assert (finished.status, finished.stderr) == (
        0,
        "allocpolicy provision: 30 disks\n",
    )
    assert [one["line"] for one in results] == list(range(1, 31))
    assert [one["disk"] for one in results] == list(map(str, disks))
    assert all(one["report"]["observed"]["virtual_size"] == MIB for one in results)


BAD = {
    "nonsense": "not valid JSON",
    '{"disk": "/x", ': "not valid JSON",
    '["/x"]': "give an object",
    '"/x"': "give an object",
    "null": "give an object",
    "{}": "it has no disk",
    '{"disk": null}': "it has no disk",
    '{"disk": ""}': "give a path",
    '{"disk": 5}': "give a path",
    '{"disk": "x"}': "give an absolute path",
    '{"disk": "/x\\u0000y"}': "without NUL",
    '{"disk": "/x\0y"}': "not valid JSON",
    '{"disk": "/x", "disk": "/y"}': "appears twice",
    '{"disk": "/x", "extra_specs": {"a": "1", "a": "2"}}': "appears twice",
    '{"disk": "/x", "sizes": "1M"}': "did you mean 'size'?",
    '{"disk": "/x", "labels": {}}': "is no key",
    '{"disk": "/x", "size": true}': "give bytes",
    '{"disk": "/x", "size": -1}': "give bytes",
    '{"disk": "/x", "size": NaN}': "give bytes",
    '{"disk": "/x", "size": 1.5}': "give bytes",
    '{"disk": "/x", "size": "1Q"}': "size",
    '{"disk": "/x", "size": ' + "9" * 5000 + "}": "digits",
    '{"disk": "/x", "format": "qcow"}': "did you mean 'qcow2'?",
    '{"disk": "/x", "base": "image"}': "give an absolute path",
    '{"disk": "/x", "base_format": "vmkd"}': "did you mean 'vmdk'?",
    '{"disk": "/x", "role": "rot"}': "did you mean 'root'?",
    '{"disk": "/x", "mode": 640}': "octal digits in quotes",
    '{"disk": "/x", "mode": "0999"}': "octal permission bits",
    '{"disk": "/x", "mode": "\\u0666\\u0664\\u0660"}': "octal permission bits",
    '{"disk": "/x", "mode": "6_4_0"}': "octal permission bits",
    '{"disk": "/x", "owner": "root"}': "USER:GROUP",
    '{"disk": "/x", "owner": "root\\u0000:root"}': "there is no user",
    '{"disk": "/x", "owner": "root:\\ud800"}': "there is no group",
    '{"disk": "/x", "owner": ["root", "root"]}': "give a str",
    '{"disk": "/x", "strategy": "spcae", "size": "1M"}': "did you mean 'space'?",
    '{"disk": "/x", "strategy": 1}': "give a str",
    '{"disk": "/x", "flavor": "small"}': "needs --flavors",
    '{"disk": "/x", "extra_specs": []}': "a mapping",
    '{"disk": "/x", "extra_specs": {"allocpolicy:strategy": 1}}': "give a str",
    '{"disk": "/x", "strategy": "none", "extra_specs":'
    ' {"allocpolicy:strategy": "space"}}': "leave one of them out",
    '{"disk": "/x", "size": ' + "[" * 100_00 + "]" * 100_00 + "}": "too deeply",
    '{"disk": "/' + "x" * lines.LONGEST + '"}': "longer than",
    "x" * 300_000: "longer than",
    '\ufeff{"disk": "/x"}': "not valid JSON",
}


def test_a_bad_line_harms_no_other(tmp_path: Path) -> None:
    """Each is told in its place, with the status of a request that is invalid."""
    disks = [tmp_path / f"disk-{number}" for number in range(len(BAD))]
    bad = (one.replace("/x", f"/x{number}") for number, one in enumerate(BAD))
    pairs = zip(map(line, disks), bad, strict=True)
    text = "".join(f"{good}{other}\n" for good, other in pairs)
    results, finished = batch(tmp_path, text)
    assert [one["line"] for one in results] == list(range(1, 2 * len(BAD) + 1))
    assert [one["exit_status"] for one in results] == [0, 2] * len(BAD)
    for result, said in zip(results[1::2], BAD.values(), strict=True):
        assert said in result["error"]
        assert result["report"] is None
        assert result["kind"] in ("InvalidRequest", "ExtraSpecError")
    assert all(disk.exists() for disk in disks)
    told = f"{len(BAD)} of {2 * len(BAD)} disks failed"
    assert (finished.status, finished.stderr) == (2, f"allocpolicy provision: {told}\n")


@pytest.mark.parametrize("bad", ['{"disk": "/x", "owner": "a\\u0000:b"}', "nonsense"])
def test_a_bad_first_line_harms_no_other(tmp_path: Path, bad: str) -> None:
    """It is the one by which the command learns what there is to import."""
    results, finished = batch(tmp_path, f"{bad}\n{line(tmp_path / 'disk')}")
    assert [one["exit_status"] for one in results] == [2, 0], finished.stderr


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    results, _ = batch(tmp_path, b'{"disk": "/\xff"}\n' + line(tmp_path / "a").encode())
    assert "not UTF-8" in results[0]["error"]
    assert results[1]["exit_status"] == 0


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    """As JSON has it: a lone surrogate for each byte."""
    results, _ = batch(tmp_path, line(tmp_path / "\udcff"))
    assert results[0]["disk"] == str(tmp_path / "\udcff")
    assert os.path.exists(os.fsencode(tmp_path) + b"/\xff")


@pytest.mark.parametrize("begin", ["", "\ufeff", "\n \r\n\t\n"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n  \n", "\r\n\r\n"])
def test_what_editors_do_to_lines_is_no_matter(
    tmp_path: Path, begin: str, ending: str
) -> None:
    """A mark of the byte order, empty lines, line ends, and none at the last line."""
    disks = [tmp_path / f"disk-{number}" for number in range(3)]
    text = begin + ending.join(line(one).strip() for one in disks)
    results, finished = batch(tmp_path, text)
    assert finished.status == 0, finished.stdout
    assert [one["disk"] for one in results] == list(map(str, disks))
    numbers = [n for n, one in enumerate(text.split("\n"), start=1) if "disk" in one]
    assert [one["line"] for one in results] == numbers


@pytest.mark.parametrize("content", ["", "\n", " \r\n\n", "\ufeff", "[]", "# none\n[]"])
def test_a_file_without_orders_is_told(tmp_path: Path, content: str) -> None:
    results, finished = batch(tmp_path, content)
    assert (results, finished.status) == ([], 2)
    assert "it has no orders" in finished.stderr


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none"):
        finished = allocpolicy("provision", "--batch", file)
        assert finished.status == 2
        assert f"--batch {file}: " in finished.stderr


def test_yaml_has_the_same_orders(tmp_path: Path) -> None:
    """A list, by the file's name or how it begins; each item has its line."""
    text = (
        "# disks\n"
        f"- disk: {tmp_path}/a\n  size: 1M\n"
        f"- {{disk: {tmp_path}/b, size: 1048576, mode: '0640'}}\n"
        "- disk: c\n- 5\n"
    )
    for name in ("orders", "orders.yaml"):
        results, finished = batch(tmp_path, text, name=name)
        assert finished.status == 2
        assert [one["line"] for one in results] == [2, 4, 5, 6]
        assert [one["exit_status"] for one in results] == [0, 0, 2, 2]
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640
        for disk in "ab":
            (tmp_path / disk).unlink()


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            "- disk: /x\n  disk: /y\n",
            "line 4, column 3: not valid YAML: the key 'disk'",
        ),
        ("- {disk: &a /x, 5: *a}\n", "line 3, column 17: not valid YAML: the key '5'"),
        ("- *a\n", "aliases are refused"),
        ("- disk: [\n", "line 4, column 1: not valid YAML"),
        ("- disk: 'x\n", "line 4, column 1: not valid YAML"),
        ("- 2001-99-99\n", "does not match its type"),
        ("- " * 5000 + "\n", "too deeply"),
        ("- disk: c\n", "give an absolute path"),
    ],
)
@pytest.mark.parametrize("last", ["", "- @\n"])
def test_a_bad_item_of_yaml_harms_no_other(
    tmp_path: Path, item: str, said: str, last: str
) -> None:
    """Not even where the whole is no YAML; it is told in its place."""
    good = f"- {{disk: {tmp_path}/%s, size: 1M}}\n"
    text = f"# disks\n{good % 'a'}{item}{good % 'b'}{last}"
    results, finished = batch(tmp_path, text, name="orders.yml")
    assert finished.status == 2
    after = 3 + item.count("\n")
    assert [one["line"] for one in results] == [2, 3, after, after + 1][
        : 3 + bool(last)
    ]
    assert [one["exit_status"] for one in results] == [0, 2, 0, 2][: 3 + bool(last)]
    assert said in results[1]["error"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{disk: /x}, {disk: ]\n", "not valid YAML"),
        ("disks: []\n", "it is no list"),
        ("disks:\n- disk: /x\n", "it is no list"),
        ("[\xff", "not UTF-8"),
    ],
)
def test_yaml_that_is_no_list_makes_nothing(
    tmp_path: Path, text: str, said: str
) -> None:
    results, finished = batch(tmp_path, text.encode("latin-1"), name="orders.yml")
    assert (results, finished.status) == ([], 2)
    assert said in finished.stderr


def test_options_are_the_defaults_of_every_line(tmp_path: Path) -> None:
    """A line has the last word, but for the command line's strategy over a flavor."""
    (tmp_path / "flavors.yaml").write_text(FLAVORS)
    asked: dict[str, dict[str, object]] = {
        "plain": {},
        "sized": {"size": 4 * MIB, "mode": "0604", "format": "qcow2"},
        "flavored": {"flavor": "small", "role": "swap", "size": None},
        "fast": {"strategy": "performance", "format": "qcow2"},
    }
    text = "".join(
        json.dumps({"disk": f"{tmp_path}/{name}", **more}) + "\n"
        for name, more in asked.items()
    )
    options = ("--size", "3M", "--mode", "0640", "--disk-format", "raw")
    flavors = ("--flavors", tmp_path / "flavors.yaml")
    results, finished = batch(tmp_path, text, *options, *flavors, "--label", "a=b")
    assert finished.status == 0, finished.stdout
    reports = {Path(one["disk"]).name: one["report"] for one in results}
    assert [one["virtual_size"] for one in reports.values()] == [
        *(3 * MIB, 4 * MIB, 3 * MIB, 3 * MIB)
    ]
    assert [one["format"] for one in reports.values()] == [
        *("raw", "qcow2", "raw", "qcow2")
    ]
    assert [one["requested"]["strategy"] for one in reports.values()] == [
        *("none", "none", "space", "performance")
    ]
    assert all(one["labels"]["a"] == "b" for one in reports.values())
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in reports]
    assert modes == [0o640, 0o604, 0o640, 0o640]


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    text = "".join(line(tmp_path / f"disk-{number}") for number in range(4))
    results, finished = batch(tmp_path, text, "--dry-run", "--detailed-exitcode")
    assert finished.status == 10
    assert all(one["report"]["dry_run"] for one in results)
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_is_that_of_the_worst(tmp_path: Path) -> None:
    huge = line(tmp_path / "huge", size=1 << 43, strategy="space")
    results, finished = batch(tmp_path, line("x") + huge + line(tmp_path / "a"))
    assert [one["exit_status"] for one in results] == [2, 3, 0]
    assert [one["kind"] for one in results] == [
        "InvalidRequest",
        "NotEnoughSpace",
        None,
    ]
    assert finished.status == 3


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("DEST", "--batch", "orders"),
        ("--batch", "orders", "-f", "table"),
        ("--batch", "orders", "-f", "yaml"),
        ("--batch", "orders", "-c", "disk"),
        ("--batch", "orders", "--jobs", "0"),
        ("--batch", "orders", "--mode", "999"),
        ("--batch", "orders", "--flavor", "small"),
        ("DEST", "--jobs", "2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders").write_text(line(tmp_path / "disk"))
    finished = allocpolicy("provision", *arguments)
    assert (finished.status, finished.stdout) == (2, "")
    assert finished.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["orders"]


def test_the_log_has_each_disk(tmp_path: Path) -> None:
    log, orders = tmp_path / "log", tmp_path / "orders"
    orders.write_text("".join(line(tmp_path / f"disk-{one}") for one in range(9)))
    options = ("--log-json", "--log-file", log)
    finished = allocpolicy(*options, "provision", "--batch", orders, "--jobs", 3)
    assert finished.status == 0
    told = [json.loads(one) for one in log.read_text().splitlines()]
    assert {one["disk"] for one in told} == {
        str(tmp_path / f"disk-{one}") for one in range(9)
    }
    assert all(one["operation"] == "provision" for one in told)
    assert all("--batch" in one["command"] for one in told)


def started(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("provision", "--batch", *arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def test_who_asks_for_one_disk_after_another_has_each_result_at_once(
    tmp_path: Path,
) -> None:
    """Standard input needs no end for that."""
    with started("-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(line(tmp_path / f"disk-{number}").encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number + 1
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_what_is_complete_stays_and_is_told_when_it_is_interrupted(
    tmp_path: Path, number: int, status: int
) -> None:
    """Each disk that is there has its result, and its record in the log."""
    log = tmp_path / "log"
    disks = tmp_path / "disks"
    disks.mkdir()
    program = command("--log-json", "--log-file", log, "provision", "--batch", "-")
    process = subprocess.Popen(
        program,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write("".join(line(disks / f"{one}") for one in range(400)).encode())
    process.stdin.flush()
    told = [process.stdout.readline()]
    process.send_signal(number)
    told += process.stdout.readlines()
    said = process.stderr.read().decode()
    assert process.wait() == status
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    results = [json.loads(one) for one in told]
    assert [one["line"] for one in results] == sorted(one["line"] for one in results)
    made = {one["disk"] for one in results if not one["exit_status"]}
    assert made == {str(one) for one in disks.iterdir()}
    logged = [json.loads(one) for one in log.read_text().splitlines()]
    assert {one["disk"] for one in logged if one["outcome"] == "done"} == made
    assert {one["kind"] for one in results if one["exit_status"]} <= {"Interrupted"}
    assert f"{len(made)} disk" in said
    assert "created and are complete" in said


def test_it_stops_when_nobody_reads_its_results(tmp_path: Path) -> None:
    """And tells how many disks there are."""
    (tmp_path / "orders").write_text(
        "".join(line(tmp_path / f"disk-{one}") for one in range(3000))
    )
    with started(tmp_path / "orders") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 141
    made = len(list(tmp_path.iterdir())) - 1
    assert 0 < made < 3000
    assert f"{made} disk" in said
    assert "the output can't be written: Broken pipe" in said


def test_a_full_disk_of_results_is_told(tmp_path: Path) -> None:
    (tmp_path / "orders").write_text(line(tmp_path / "disk"))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("provision", "--batch", tmp_path / "orders"),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert "the output can't be written: No space left on device" in done.stderr


def test_killed_at_any_moment_it_leaves_no_half_disk(tmp_path: Path) -> None:
    chance = random.Random(5)
    for attempt in range(4):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        with started("-", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            orders = "".join(line(directory / f"{one}") for one in range(300))
            process.stdin.write(orders.encode())
            process.stdin.flush()
            for _ in range(chance.randrange(1, 20)):
                process.stdout.readline()
            process.kill()
            while process.stdout.read(1 << 16):  # until its workers have ended
                pass
            process.wait()
        for disk in directory.iterdir():
            assert disk.name.isdecimal()
            finished = allocpolicy("inspect", disk, "-f", "json")
            assert finished.document["verdict"]["judgement"] == "meets", disk


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_of_twenty_batches_at_once_each_disk_is_of_one(
    directory: Path, tmp_path: Path
) -> None:
    """Half of a batch's disks are another's, too: one of both has it, and says so."""
    for batch in range(20):
        text = "".join(
            line(directory / str(5 * batch + number), strategy="performance")
            for number in range(10)
        )
        (tmp_path / str(batch)).write_text(text)
    commands = [
        ("provision", "--batch", tmp_path / str(batch), "--jobs", 2)
        for batch in range(20)
    ]
    results = [
        json.loads(one)
        for finished in at_once(*commands)
        for one in finished.stdout.splitlines()
    ]
    made = [one["disk"] for one in results if not one["exit_status"]]
    assert len(results) == 200
    assert sorted(made) == sorted(str(directory / str(one)) for one in range(105))
    assert {one["kind"] for one in results} == {None, "DestinationExists"}
    for disk in made:
        assert "leaks" not in images.check(Path(disk))


def test_an_ordinary_user_makes_disks_as_well() -> None:
    """What isn't theirs to give is told of its line alone."""
    with ordinary_user.public_directory() as place:
        text = line(place / "mine") + line(place / "given", owner="root:root")
        done = subprocess.run(
            ordinary_user.command(*command("provision", "--batch", "-")),
            input=text,
            capture_output=True,
            text=True,
            env=environment(HOME=str(place), XDG_RUNTIME_DIR=""),
            check=False,
        )
        results = [json.loads(one) for one in done.stdout.splitlines()]
        assert [one["exit_status"] for one in results] == [0, 2], done.stderr
        assert "only root may give files to others" in results[1]["error"]
        assert (place / "mine").stat().st_uid == ordinary_user.UID


def test_the_schema_has_what_is_taken() -> None:
    properties = SCHEMAS.load("batch_order")["properties"]
    assert tuple(properties) == KEYS
    assert properties["base_format"]["enum"] == [*FORMATS, None]


def test_a_stream_of_any_length_takes_no_more_memory(tmp_path: Path) -> None:
    """A line that is no order is as good as any to see it; the first ones are warm."""
    program = (
        "import resource, sys\n"
        "from allocpolicy.cli.program import served\n"
        "sys.argv[1:] = ['provision', '--batch', '-', '--jobs', '1']\n"
        "served()\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(used, file=sys.__stderr__)\n"
    )

    def kilobytes(count: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(),
            input=b"x" * 2000 + b"\n" + b'{"disk": 5}\n' * count,
            capture_output=True,
            check=True,
        )
        assert done.stdout.count(b"\n") == count + 1
        return int(done.stderr.splitlines()[-1])

    assert kilobytes(20_000) < kilobytes(100) + 8_000
