"""Nova's API refuses extra specs that no installed strategy knows."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from nova import context, exception
from nova.api.openstack import api_version_request, wsgi
from nova.api.openstack.compute import flavors_extraspecs
from nova.api.validation.extra_specs import base, validators

from allocpolicy.nova import extra_spec_validators
from allocpolicy.registry import installed
from allocpolicy.resolve.extra_specs import STRATEGY_KEYS

Install = Callable[..., None]

STRATEGY = """
from allocpolicy import Strategy

class Good(Strategy):
    api_version = 1
    summary = "Does no harm."
    options_schema = {
        "type": "object",
        "properties": {
            "depth": {"type": "integer", "minimum": 1, "default": 2},
            "sync": {"type": "boolean", "default": True},
            "pool": {"type": "string", "pattern": "^[a-z]+$", "default": "a"},
            "mode": {"$ref": "#/$defs/mode", "type": "string", "default": "x"},
        },
        "$defs": {"mode": {"enum": ["x", "y"]}},
        "if": {"properties": {"depth": {"const": 8}}},
        "then": {"properties": {"sync": {"const": False}}},
    }
    def plan(self, **given): ...
    def verify(self, **given): ...
    def attach(self, **given): ...
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution of one module, with these strategies, onto sys.path."""

    def install(module: str, *names: str, code: str) -> None:
        dist_info = tmp_path / module / f"{module}-1.5.dist-info"
        dist_info.mkdir(parents=True)
        (dist_info.parent / f"{module}.py").write_text(code)
        (dist_info / "METADATA").write_text(f"Name: {module}\nVersion: 1.5\n")
        lines = [f"[{installed.GROUP}]", *(f"{name} = {module}:Good" for name in names)]
        (dist_info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(dist_info.parent))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def registered() -> dict[str, base.ExtraSpecValidator]:
    return {one.name: one for one in extra_spec_validators.register()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allocpolicy:strategy", "performance"),
        ("allocpolicy:strategy.root", "space"),
        ("allocpolicy:strategy.ephemeral", "none"),
        ("allocpolicy:strategy.swap", "none"),
        ("allocpolicy:performance.data", "full"),
        ("allocpolicy:performance.cluster_size", "2M"),
        ("allocpolicy:space.reserve", "zero-fill"),
        ("allocpolicy:partial.share", "10"),
        ("hw:cpu_policy", "dedicated"),
    ],
)
def test_what_provisioning_takes_is_taken(key: str, value: str) -> None:
    """Each role of a disk, and the options of plugins as well as of bundled ones."""
    validators.validate(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allocpolicy:strategy", "fastt"),
        ("allocpolicy:strategy", ""),
        ("allocpolicy:strategy", "Performance"),
        ("allocpolicy:strategi", "performance"),
        ("allocpolicy:strategy.boot", "performance"),
        ("allocpolicy:strategy.", "performance"),
        ("allocpolicy:strategy:root", "performance"),
        ("allocpolicy:strategy_root", "performance"),
        ("allocpolicy:strategy.root.", "performance"),
        ("allocpolicy:", "performance"),
        ("allocpolicy:performance", "full"),
        ("allocpolicy:performance.data", "fulll"),
        ("allocpolicy:performance.dat", "full"),
        ("allocpolicy:performance-data", "full"),
        ("allocpolicy:fast.data", "full"),
        ("allocpolicy:partial.share", "0"),
        ("allocpolicy:partial.share", "1_0"),
        ("allocpolicy:partial.share", "ten"),
    ],
)
def test_a_mistake_is_answered_with_400(key: str, value: str) -> None:
    """The controller of Nova's API refuses it, before it looks for the flavor."""
    controller = flavors_extraspecs.FlavorExtraSpecsController()
    request = wsgi.Request.blank("/")
    admin = context.RequestContext(user_id="1", project_id="1", roles=["admin"])
    request.environ["nova.context"] = admin
    request.api_version_request = api_version_request.APIVersionRequest("2.86")
    with pytest.raises(exception.ValidationError) as raised:
        controller.create(request, "1", body={"extra_specs": {key: value}})
    assert raised.value.code == HTTPStatus.BAD_REQUEST
    assert "\n" not in str(raised.value)


def test_the_answer_says_what_is_allowed_and_what_is_near() -> None:
    """The same words as at provisioning."""
    with pytest.raises(exception.ValidationError, match="did you mean 'full'"):
        validators.validate("allocpolicy:performance.data", "fulll")
    with pytest.raises(exception.ValidationError, match=r"allowed: .*performance"):
        validators.validate("allocpolicy:strategy", "perf")


def test_every_key_is_described_in_novas_words(install: Install) -> None:
    """Type, enumeration, limits and pattern are those of the strategy's schema."""
    install("described", "described", code=STRATEGY)
    found = registered()
    assert set(STRATEGY_KEYS) < set(found)
    assert all(
        one.description for name, one in found.items() if "described" not in name
    )
    assert "described" in found["allocpolicy:strategy.root"].value["enum"]
    assert found["allocpolicy:described.depth"].value == {"type": int, "min": 1}
    assert found["allocpolicy:described.sync"].value == {"type": bool}
    assert found["allocpolicy:described.pool"].value["pattern"] == "^[a-z]+$"


@pytest.mark.parametrize(
    ("option", "taken", "refused"),
    [
        ("depth", "8", "0"),
        ("sync", "Off", "t"),
        ("pool", "abc", "a1"),
        ("mode", "y", "z"),
    ],
)
def test_an_options_value_is_what_its_schema_says(
    install: Install, option: str, taken: str, refused: str
) -> None:
    """What is said of options together is for provisioning, which sees them all."""
    install("typed", "typed", code=STRATEGY)
    name = f"allocpolicy:typed.{option}"
    registered()[name].validate(name, taken)
    with pytest.raises(exception.ValidationError):
        registered()[name].validate(name, refused)


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(1)", "1 / 0", "Good = 1", STRATEGY.replace("True", "7")],
    ids=["exits", "raises", "no strategy", "bad default"],
)
def test_a_broken_strategy_is_logged_and_the_others_are_known(
    install: Install, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """Nova's API starts, whatever a plugin is."""
    before = set(registered())
    install("broken", "broken", code=code)
    with caplog.at_level(logging.WARNING):
        after = registered()
    assert set(after) == before
    assert "broken" not in after["allocpolicy:strategy"].value["enum"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'broken'" in caplog.text


def test_of_two_strategies_with_one_name_none_is_known(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """Provisioning would use neither."""
    install("one", "twice", code=STRATEGY)
    install("two", "twice", code=STRATEGY)
    assert "twice" not in registered()["allocpolicy:strategy"].value["enum"]
    assert "'twice'" in caplog.text


def test_an_option_that_cannot_be_told_to_nova_is_logged(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """The strategy's other options, and the other strategies, are known."""
    code = STRATEGY.replace('"^[a-z]+$"', '"^[a-z]+$", "enum": ["a", object()]')
    install("untold", "untold", code=code)
    found = registered()
    assert "allocpolicy:untold.pool" not in found
    assert {"allocpolicy:untold.depth", "allocpolicy:performance.data"} <= set(found)
    assert "The extra spec allocpolicy:untold.pool is refused" in caplog.text


def test_what_is_installed_cannot_be_found_out(
    install: Install, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """No extra spec is checked then, and Nova's API starts."""
    install("unreadable", "unreadable", code=STRATEGY)
    (entry_points,) = tmp_path.glob("unreadable/*/entry_points.txt")
    entry_points.write_bytes(b"[allocpolicy.strategies]\n\xff = x:Y\n")
    assert extra_spec_validators.register() == []
    assert "No extra spec of allocpolicy is checked: Unicode" in caplog.text


def test_nova_is_imported_by_nobody_else() -> None:
    """Whoever lists entry points, or runs the command, needs no Nova."""
    code = (
        "import sys\n"
        "import allocpolicy.nova.extra_spec_validators\n"
        "assert 'nova' not in sys.modules\n"
        "assert 'jsonschema' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
