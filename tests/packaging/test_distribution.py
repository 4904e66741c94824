"""What is shipped: all that git knows, and a wheel that runs by itself."""

from __future__ import annotations

import configparser
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run

# Where the wheel has what the repository keeps elsewhere (setup.cfg: package_dir).
PACKAGES = {
    "allocpolicy/": "allocpolicy/",
    "schemas/": "allocpolicy_schemas/",
    "plugins/allocpolicy_strategies/": "allocpolicy_strategies/",
}


def test_wheel_has_the_packages_and_nothing_else(
    source_files: set[str], wheel: Path
) -> None:
    """A subpackage that setup.cfg forgets would be dropped in silence."""
    expected = {
        name.replace(source, installed, 1)
        for name in source_files
        for source, installed in PACKAGES.items()
        if name.startswith(source)
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert shipped == expected


def test_sdist_has_all_of_the_source(source_files: set[str], built: Path) -> None:
    """Whoever has the sdist can run the tests."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    top = names[0].partition("/")[0]
    assert not {f"{top}/{name}" for name in source_files} - set(names)


def test_says_the_version_of_the_wheel(
    wheel: Path, clean_bin: Path, tmp_path: Path
) -> None:
    """`allocpolicy --version` runs from the wheel alone, and there is one version."""
    printed = run(clean_bin / "allocpolicy", "--version", cwd=tmp_path)
    assert printed.split() == wheel.name.split("-")[:2]


def test_bundled_strategies_are_in_the_wheel(clean_bin: Path, tmp_path: Path) -> None:
    """Their entry points lead to packages that are there."""
    command = ("strategy", "list", "-f", "value", "-c", "name")
    printed = run(clean_bin / "allocpolicy", *command, cwd=tmp_path)
    assert printed.split() == ["none", "performance", "space"]


def test_the_suite_for_strategies_is_in_the_wheel(
    wheel: Path, clean_bin: Path, tmp_path: Path
) -> None:
    """Pytest runs it once the extra is installed."""
    run(clean_bin / "pip", "install", "-q", f"{wheel}[testing]", cwd=tmp_path)
    suite = ("--pyargs", "allocpolicy.testing.conformance", "--strategy", "none")
    printed = run(clean_bin / "pytest", *suite, "-k", "plans", cwd=tmp_path)
    assert "none: " in printed


def test_the_sample_configuration_has_the_options_of_today(
    clean_bin: Path, tmp_path: Path
) -> None:
    """oslo-config-generator writes it from the namespace that setup.cfg declares."""
    settings, sample = ROOT / "etc/oslo-config-generator.conf", tmp_path / "sample"
    command = ("--config-file", settings, "--output-file", sample)
    run(clean_bin / "oslo-config-generator", *command, cwd=tmp_path)
    written = (ROOT / "etc/allocpolicy.conf.sample").read_text()
    assert written == sample.read_text(), f"run oslo-config-generator with {settings}"


PLUGIN = """
from collections.abc import Mapping

from allocpolicy import (
    Attachment,
    CreateRaw,
    Facts,
    Judgement,
    Mode,
    Observation,
    Plan,
    Request,
    Strategy,
    Verdict,
)


class Theirs(Strategy):
    api_version = 1
    summary = "somebody else's"

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        size = request.virtual_size
        return Plan(
            mode=Mode.STAGED,
            steps=(CreateRaw(virtual_size=size),),
            peak_bytes=0,
            promised_bytes=size,
        )

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        return Verdict(judgement=Judgement.MEETS, reason=str(observation.virtual_size))

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )
"""

PROGRAM = """
from pathlib import Path

import allocpolicy

policy = allocpolicy.load_policy()
found = allocpolicy.inspect(Path("disk"), policy=policy)
size: int = found.observed.virtual_size
report = allocpolicy.apply(allocpolicy.Change(disk=Path("disk")), policy=policy)
document: dict[str, object] = report.as_document()
chosen: allocpolicy.Selection = report.effective
drifted: bool = allocpolicy.audit([Path(".")], policy=policy).drifted
"""


def test_plugins_and_programs_of_others_pass_mypy_strict(
    checkers: Path, tmp_path: Path
) -> None:
    """The wheel is typed (PEP 561): nothing of the public API is Any."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "program.py").write_text(PROGRAM)
    run(checkers / "mypy", "--strict", "plugin.py", "program.py", cwd=tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("allocpolicy.load_policy", "allocpolicy.load_polcy"),
        ("virtual_size", "virtual_sise"),
        ("import allocpolicy", "from allocpolicy import Polcy"),
    ],
)
def test_a_misspelt_name_is_an_error_of_mypy(
    checkers: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    misspelt = PROGRAM.replace(right, wrong)
    assert misspelt != PROGRAM
    (tmp_path / "program.py").write_text(misspelt)
    done = subprocess.run(
        [checkers / "mypy", "--strict", "program.py"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        text=True,
    )
    assert done.returncode == 1
    assert wrong.rsplit(maxsplit=1)[-1].rpartition(".")[2] in done.stdout


def test_the_matrix_of_an_ordinary_user_needs_no_root() -> None:
    """Without root, `make test` leaves out what must not skip for want of it."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    needy = {
        name
        for name in tox["tox"]["env_list"].split(", ")
        if "--require-filesystems"
        in tox.get(f"testenv:{name}", "commands", fallback="")
    }
    script = (ROOT / "tools" / "run-tox").read_text()
    skipped = re.findall(r'^TOX_SKIP_ENV="(.*?)"', script, re.MULTILINE)
    assert [set(names.split("|")) for names in skipped] == [needy]
