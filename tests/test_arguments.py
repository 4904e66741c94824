"""What scripts give: taken at the border, or refused there in a sentence."""

from __future__ import annotations

import ast
import enum
import importlib.util
import inspect as inspection
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

import allocpolicy
from allocpolicy import (
    Access,
    Attached,
    Change,
    Choice,
    DiskFormat,
    DiskRole,
    Flavor,
    Given,
    Headroom,
    InvalidRequest,
    Libvirt,
    Limits,
    Machines,
    Order,
    Policy,
    PreparedDisks,
    RewriteLimits,
    Stamp,
    automatic_cluster_size,
    delegate,
    discarding_size_bound,
    fully_allocated_size,
    mapped_data_offset,
    thin_size_bound,
)
from allocpolicy.arguments import Size

THIN = Choice(strategy="none", options={})
RECORDS: tuple[Any, ...] = (
    Access(),
    Attached(vm="vm1, vda", format="raw"),
    Change(disk="disk"),
    THIN,
    Flavor(name="small", extra_specs={}, source="flavors.yaml"),
    Given(choice=THIN, format="raw"),
    Headroom(ratio=0.01, minimum=0),
    Libvirt(),
    Limits(),
    Machines(),
    Order(destination="disk"),
    Policy(),
    PreparedDisks(),
    RewriteLimits(),
    Stamp(requested=THIN, effective=THIN, format="raw"),
)
EVERY_FIELD = [
    pytest.param(one, field.name, id=f"{type(one).__name__}.{field.name}")
    for one in RECORDS
    for field in fields(one)
]
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 7, 1 << 80, 2.5, float("nan"), float("inf"), 1j),
    *("", "word", "40G", "qcow2", "a\0b", "\ud800", b"bytes", Path("path")),
    *([], [5], ["word"], (1, 2), ("a", "b"), {}, {"a": "b"}, {"a": 5}, {5: "a"}),
    *({"a"}, object(), object, len, THIN, DiskFormat.RAW, np.int64(4)),
)


def declared(record: object, field: str) -> Any:
    """Return the type of a field, as Python's own reader of annotations has it."""
    kind = type(record)
    module = importlib.import_module(kind.__module__)
    return typing.get_type_hints(kind, vars(module))[field]


def has_type(value: object, hint: Any) -> bool:
    """Return whether a value has a type, all through."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return any(has_type(value, one) for one in arguments)
        case origin if origin is tuple and arguments[-1] is ...:
            return type(value) is tuple and all(
                has_type(one, arguments[0]) for one in value
            )
        case origin if origin is tuple:
            return type(value) is tuple and all(map(has_type, value, arguments))
        case origin if origin is not None:
            assert issubclass(origin, Mapping)
            return isinstance(value, Mapping) and all(
                has_type(key, arguments[0]) and has_type(one, arguments[1])
                for key, one in value.items()
            )
    if hint is float:
        hint = int | float
    is_bool = isinstance(value, bool)
    return isinstance(value, hint) and (not is_bool or hint in (bool, object))


@pytest.mark.parametrize(("record", "field"), EVERY_FIELD)
def test_a_field_has_its_type_or_is_refused_by_its_name(
    record: Any, field: str
) -> None:
    hint, name = declared(record, field), f"{type(record).__name__}.{field}"
    for value in VALUES:
        try:
            made = replace(record, **{field: value})
        except InvalidRequest as error:
            assert name in str(error)
            assert str(error).isprintable()
            assert any(word in str(error) for word in ("give ", "allowed: ", "write "))
        else:
            assert has_type(getattr(made, field), hint), value


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: type(one).__name__)
def test_what_type_checkers_see_has_all_fields(record: object) -> None:
    """Where text is taken as well, the constructor is written out for them."""
    tree = ast.parse(inspection.getsource(type(record)))
    written = [
        [one.arg for one in node.args.kwonlyargs]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    hints = [declared(record, field.name) for field in fields(record)]  # type: ignore[arg-type]
    takes_text = any(
        one is Path or (isinstance(one, type) and issubclass(one, enum.Enum))
        for hint in hints
        for one in (hint, *typing.get_args(hint))
    )
    assert written or not takes_text
    assert written in ([], [[field.name for field in fields(record)]])  # type: ignore[arg-type]


def test_text_and_the_thing_itself_are_the_same() -> None:
    assert Order(
        destination="disk",
        virtual_size="1.5G",
        base=os.fspath(Path("base")),
        format="raw",
        disk_role="swap",
    ) == Order(
        destination=Path("disk"),
        virtual_size=3 << 29,
        base=PurePosixPath("base"),
        format=DiskFormat.RAW,
        disk_role=DiskRole.SWAP,
    )
    assert Policy(disk_directories=["/a"], size_alignment="1M") == Policy(
        disk_directories=(Path("/a"),), size_alignment=1 << 20
    )
    size = Change(disk="disk", virtual_size=np.int64(512)).virtual_size  # type: ignore[arg-type]
    assert type(size) is Size


def test_a_choice_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Order(destination="disk", format="qcow3")
    assert str(caught.value) == (
        "Order.format is 'qcow3'; allowed: qcow2, raw; did you mean 'qcow2'?"
    )


class Named(Policy):
    """A subclass that adds nothing, in a module without the annotations' names."""


def test_a_subclass_has_the_fields_of_its_record() -> None:
    assert Named(lock_path="/run").lock_path == Path("/run")


def test_who_watches_need_not_care_for_progress(tmp_path: Path) -> None:
    told: list[str] = []
    small = Order(destination=tmp_path / "disk", virtual_size="1M", format="raw")
    given: dict[str, Any] = {"policy": Policy(configured=False), "watch": told.append}
    allocpolicy.provision(small, **given)
    assert told


Call = Callable[..., object]
apply, apply_all, audit = allocpolicy.apply, allocpolicy.apply_all, allocpolicy.audit
capacity, ensure = allocpolicy.capacity, allocpolicy.ensure
inspect = allocpolicy.inspect
load_flavors, load_policy = allocpolicy.load_flavors, allocpolicy.load_policy
provision, resize = allocpolicy.provision, allocpolicy.resize
ORDER, CHANGE = Order(destination="disk"), Change(disk="disk")

WRONG: list[tuple[Call, tuple[Any, ...], dict[str, Any], str]] = [
    (provision, ("disk",), {}, "order is 'disk': give an Order"),
    (provision, (ORDER,), {"policy": "x"}, "policy is 'x': give a Policy"),
    (provision, (ORDER,), {"watch": 5}, "watch is 5: give what can be called"),
    (ensure, ("disk",), {}, "order is 'disk': give an Order"),
    (ensure, (ORDER,), {"check": 1}, "check is 1: give True or False"),
    (ensure, (ORDER,), {"watch": 5}, "watch is 5: give what can be called"),
    (apply, (ORDER,), {}, "change is an Order: give a Change"),
    (apply, (CHANGE,), {"policy": {}}, "policy is a dict: give a Policy"),
    (apply, (CHANGE,), {"watch": 5}, "watch is 5"),
    (resize, ("disk",), {}, "change is 'disk': give a Change"),
    (apply_all, (CHANGE,), {}, "changes: give a list, with a Change for each disk"),
    (apply_all, (["disk"],), {}, r"changes\[0\] is 'disk': give a Change"),
    (apply_all, ([],), {"on_unmet": "no"}, "on_unmet is 'no'; allowed: fail, pass"),
    (inspect, (b"disk",), {}, "path is a bytes: give a path"),
    (inspect, ("disk",), {"format": "vmdk"}, "format is 'vmdk'; allowed: qcow2, raw"),
    (inspect, ("disk",), {"force": 1}, "force is 1: give True or False"),
    (inspect, ("disk",), {"given": "space"}, "given is 'space': give a Choice"),
    (audit, (5,), {}, "paths is 5: give a path, or a list of paths"),
    (audit, ([5],), {}, r"paths\[0\] is 5: give a path"),
    (audit, ("disk",), {"given": THIN}, "given is a Choice: give a Given"),
    (audit, ("disk",), {"flavors": "x"}, "flavors is 'x': give a mapping"),
    (audit, ("disk",), {"flavors": {"a": 5}}, r"flavors\['a'\] is 5: give a Flavor"),
    (audit, ("disk",), {"expected": ["x"]}, "expected is a list: give a mapping"),
    (audit, ("disk",), {"expected": {"x": 5}}, r"expected\['x'\] is 5: give a str"),
    (audit, ("disk",), {"attached": {"x": 5}}, r"attached\['x'\] is 5: give an Att"),
    (audit, ("disk",), {"jobs": 1.5}, "jobs is 1.5: give a whole number"),
    (audit, ("disk",), {"watch": "x"}, "watch is 'x': give what can be called"),
    (capacity, (5,), {}, "directory is 5: give a path"),
    (capacity, ("",), {}, "directory is '': give a path"),
    (capacity, ("a\0b",), {}, r"directory is 'a\\x00b': give a path that bytes can"),
    (
        inspect,
        (Path("\ud800"),),
        {},
        r"path is .*\\ud800.*: give a path that bytes can",
    ),
    (load_flavors, (None,), {}, "path is None: give a path"),
    (delegate, (5,), {}, "name is 5: give a str"),
    (delegate, ("none", "x"), {}, "options is 'x': give a mapping"),
    *(
        (sized, (b"1G",), {}, "virtual_size is a bytes: give bytes: an int")
        for sized in (
            *(automatic_cluster_size, discarding_size_bound),
            *(fully_allocated_size, thin_size_bound),
        )
    ),
    (mapped_data_offset, ("1G",), {"cluster_size": None}, "cluster_size is None"),
    (load_policy, (), {"config_files": 5}, "config_files is 5: give a path"),
    (load_policy, (), {"config_dirs": [b"x"]}, r"config_dirs\[0\] is a bytes"),
]


@pytest.mark.parametrize(("call", "given", "named", "told"), WRONG)
def test_an_argument_that_is_wrong_is_refused_by_its_name(
    call: Call, given: tuple[Any, ...], named: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        call(*given, **named)


def test_sizes_of_a_qcow2_are_computed_of_text_as_well() -> None:
    for sized in (discarding_size_bound, fully_allocated_size, thin_size_bound):
        assert sized("40G", cluster_size="128K") == sized(
            40 << 30, cluster_size=1 << 17
        )
    assert automatic_cluster_size("1T") == automatic_cluster_size(1 << 40)
