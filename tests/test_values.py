# SPDX-License-Identifier: MIT
"""Are frozen values values: hashable, and printed without the files that they hold?"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import pkgutil
import types
import typing
from collections import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vmipatch
from tests.files.samples import one_of_each
from vmipatch.files.kind import ANY, Kind
from vmipatch.files.open import open_kernel

UNHASHABLE = (dict, list, set, bytearray, collections.Counter, abc.Mapping, np.ndarray)
MOST = 2_000
"""Characters that a screen shows of one value."""


def frozen_classes() -> list[type]:
    """Every frozen dataclass of the package that compares by value."""
    found = set()
    for module in pkgutil.walk_packages(vmipatch.__path__, "vmipatch."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                found.add(value)
    return sorted(
        (c for c in found if c.__module__.startswith("vmipatch.") and _is_value(c)),
        key=lambda c: (c.__module__, c.__qualname__),
    )


def _is_value(kind: type) -> bool:
    parameters: Any = vars(kind)["__dataclass_params__"]
    return bool(parameters.frozen and parameters.eq)


def _is_hashable(annotation: object) -> bool:
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, UNHASHABLE):
        return False
    if dataclasses.is_dataclass(origin) and getattr(origin, "__hash__", None) is None:
        return False
    if origin in (tuple, typing.Union, types.UnionType):
        return all(map(_is_hashable, typing.get_args(annotation)))
    return True


@pytest.mark.parametrize("kind", frozen_classes(), ids=lambda kind: kind.__qualname__)
def test_frozen_value_hashes(kind: type) -> None:
    try:
        annotations = typing.get_type_hints(kind)
    except NameError:  # named for type checkers alone
        annotations = {}
    for field in dataclasses.fields(kind):
        counted = field.compare if field.hash is None else field.hash
        assert not counted or _is_hashable(annotations.get(field.name)), field.name


def _values(path: Path, guest: Path, out: Path) -> Iterator[object]:
    """Every value that can be had of one file."""
    opened = vmipatch.open(path)
    yield opened
    yield opened.scan()
    if isinstance(opened, vmipatch.ModuleTree):
        yield opened.rewrite(out)
        yield vmipatch.open(out)
        return
    if isinstance(opened, vmipatch.ModuleFile):
        module = opened.rewrite()
        yield module
        yield vmipatch.open(module.data)
        return
    twin = open_kernel(guest) if opened.kind is Kind.BZIMAGE else None
    kernel = opened.rewrite(debug=twin)
    yield kernel
    yield opened.image
    if twin is None:
        again = open_kernel(kernel.data)
        yield again.restore()
        yield again.verify(opened, vmipatch.VerifyOptions(vmipatch.Extent.STATIC))


@pytest.mark.parametrize("kind", [k for k in Kind if k in ANY], ids=lambda kind: kind.value)
def test_no_value_prints_a_file(kind: Kind, guest: Path, tmp_path: Path) -> None:
    for value in _values(one_of_each(tmp_path, guest)[kind], guest, tmp_path / "out"):
        assert len(repr(value)) < MOST, type(value)
        hash(value)
