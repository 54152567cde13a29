# SPDX-License-Identifier: MIT
"""How does numpy count on a 32-bit host? This makes one of 64 bits do the same.

There the numbers of np.flatnonzero, np.searchsorted, np.arange and their like have 32 bits, and
numpy 2 raises OverflowError where an address above 0x7fffffff is added to them. `install` is called
before anything of vmipatch is imported, as modules keep such arrays.

Left wide: numbers that methods of arrays return (`array.argsort()`), which cannot be replaced. A
chroot of Debian 13 for i386 is the test of all of it (tests/pipelines/test_wheel.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

PLACES = (
    *("argmax", "argmin", "argsort", "argwhere", "bincount", "count_nonzero", "digitize"),
    *("flatnonzero", "lexsort", "nonzero", "searchsorted"),
)
"""Functions that return places or counts."""
NARROWEST = -(1 << 31)
WIDEST = (1 << 31) - 1

PROLOGUE = "from tests.support.narrow import install; install()\n"
"""The text of a sitecustomize.py, which processes that a command starts import too."""

Function = Callable[..., Any]


def install() -> None:
    """Replace what returns numbers of the host's own width, and what takes no others."""
    for name in PLACES:
        _replace(name, lambda function, given, options: _narrow(function(*given, **options)))
    for name in ("arange", "array", "full", "asarray"):
        _replace(name, _of_python_numbers)
    _replace("cumsum", _sums)
    _replace("unique", _unique)
    _replace("repeat", _counted)
    _replace("bincount", _counted)
    for name in ("intp", "int_"):
        setattr(np, name, np.int32)


def _replace(name: str, instead: Callable[[Function, Any, Any], Any]) -> None:
    function = getattr(np, name)

    @functools.wraps(function)
    def replaced(*given: Any, **options: Any) -> Any:
        return instead(function, given, options)

    setattr(np, name, replaced)


def _narrow(found: Any) -> Any:
    if isinstance(found, tuple):
        return tuple(map(_narrow, found))
    if isinstance(found, np.ndarray) and found.dtype == np.int64:
        fits = not found.size or (found.min() >= NARROWEST and found.max() <= WIDEST)
        return found.astype(np.int32) if fits else found
    return np.int32(found) if isinstance(found, np.int64) else found


def _of_python_numbers(function: Function, given: Any, options: Any) -> Any:
    """Without a type asked for, Python's numbers have the host's width, if they fit."""
    made = function(*given, **options)
    typed = "dtype" in options or any(isinstance(word, (type, np.dtype, str)) for word in given)
    return made if typed or any(map(_has_type, given)) else _narrow(made)


def _has_type(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value and not isinstance(value, np.generic):
        value = value[0]
    return isinstance(value, (np.ndarray, np.generic))


def _sums(function: Function, given: Any, options: Any) -> Any:
    found = function(*given, **options)
    typed = "dtype" in options or np.asanyarray(given[0]).dtype == np.int64
    return found if typed else _narrow(found)


def _unique(function: Function, given: Any, options: Any) -> Any:
    found = function(*given, **options)
    return (found[0], *_narrow(found[1:])) if isinstance(found, tuple) else found


def _counted(function: Function, given: Any, options: Any) -> Any:
    """Counts, or what is counted, have to fit into the host's width by their type."""
    counts = given[1] if function.__name__ == "repeat" else given[0]
    if isinstance(counts, np.ndarray) and not np.can_cast(counts.dtype, np.int32):
        raise TypeError(f"Cannot cast array data from {counts.dtype} according to the rule 'safe'")
    return function(*given, **options)
