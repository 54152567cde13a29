# SPDX-License-Identifier: MIT
"""Is a changed output refused, and by which rule?

Each file is judged by the rules of `verify --static`, all of them if it is accepted. A proof ends
at the first finding, as one is enough, and compares the bytes of the file first. Nothing is made
twice from equal facts: decoders and tables are pure functions, how two files correspond follows
from `_facts_of_code`, and the expected file from that and what the rewriter added.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np

from vmipatch.errors import VmipatchError
from vmipatch.image.code_pages import real_mode_page
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import Relocations
from vmipatch.isa.decode import decode
from vmipatch.isa.second import decode_second
from vmipatch.restore import SECTION as NOTE
from vmipatch.tables.find import find_all
from vmipatch.verify.static import agreement, check, comparison, side
from vmipatch.verify.static.bodies import RECORD_SECTIONS
from vmipatch.verify.static.comparison import Check, Comparison, Inputs
from vmipatch.verify.static.reproduce import check as reproducing
from vmipatch.verify.static.reproduce import reproduce as making
from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.decisions import Change, changes_of
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.place import Reproduction
from vmipatch.verify.static.reproduce.reproduce import reproduce
from vmipatch.verify.static.rules import Rule
from vmipatch.verify.static.verdict import Report
from vmipatch.verify.static.way_back import check_way_back

UNREADABLE = "not read"
KEPT = 48
"""Results that are kept of each function: some sections of two files, and of changed ones."""


class Refused(Exception):
    """A rule does not hold."""

    def __init__(self, rule: Rule, message: str) -> None:
        super().__init__(rule.number, message)
        self.rule = rule


class FirstFinding(Report):
    """A report that ends the proof."""

    def add(self, rule: Rule, va: int, message: str, place: str | None = None) -> None:
        raise Refused(rule, message)


def refusal(original: ElfImage, output: bytes, note: bytes = b"") -> str | None:
    """The number of the rule that is broken first, UNREADABLE, or None if the file is accepted.

    `note` is the honest one for `restore`: another one is executed before all else.
    """
    try:
        image = ElfImage.parse(output, "changed")
        if note and note != _note(image):
            check_way_back(original, image, original.file_sha256, FirstFinding(hex))
        verdict = check.check_static(original, image, original_sha256=original.file_sha256)
    except Refused as refused:
        return refused.rule.number
    except VmipatchError:
        return UNREADABLE
    return next((rule.number for rule in verdict.totals), None)


def _note(image: ElfImage) -> bytes:
    section = image.section_by_name.get(NOTE)
    return b"" if section is None else image.section_bytes(section)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with its results kept; lists are compared by value."""
    kept = lru_cache(KEPT)(function)

    def call(*args: Any, **named: Any) -> Any:
        return kept(*map(_hashable, args), **{k: _hashable(v) for k, v in named.items()})

    return call


def _of_one(function: Callable[[Any], Any], one: ElfImage) -> Callable[[Any], Any]:
    """The same function, with the result for one object kept."""
    results: list[Any] = []

    def call(image: Any) -> Any:
        if image is not one:
            return function(image)
        if not results:
            results.append(function(image))
        return results[0]

    return call


def _facts_of_code(inputs: Inputs) -> Hashable:
    """All of an output that Comparison.of reads: two files of equal facts correspond alike."""
    output = inputs.output
    entries = output.symbols.entries
    code = {s.index for s in output.executable_sections}
    named = np.isin(entries["shndx"], list(code))
    headers = [s if s.is_alloc else (s.index, s.name) for s in output.sections]
    return (
        tuple(headers),
        output.segments,
        output.entry,
        tuple(output.section_bytes(output.sections[index]) for index in sorted(code)),
        np.flatnonzero(named).tobytes(),
        entries[named].tobytes(),
        real_mode_page(output),
        Relocations.of(output).entries["va"].tobytes(),
        tuple(
            output.section_bytes(output.section_by_name[name])
            for name in RECORD_SECTIONS
            if name in output.section_by_name
        ),
        inputs.manifest.windows,
        inputs.manifest.start,
    )


def _facts_of_file(inputs: Inputs) -> Hashable:
    """All of an output that `reproduce` reads: the same, and whatever was added."""
    output = inputs.output
    added = [s for s in output.sections if s.name.startswith((".vmi.", ".rel.vmi."))]
    return _facts_of_code(inputs), tuple(output.section_bytes(s) for s in added)


class _Kept:
    """Results for the honest output, taken again for outputs of equal facts."""

    def __init__(self) -> None:
        self._compare, self._reproduce = Comparison.of, reproduce
        self._put, self._changes = making._put_loaded, changes_of
        self._comparison: tuple[Hashable, Comparison] | None = None
        self._file: tuple[Hashable, Reproduction] | None = None
        self._made: list[Change] | None = None
        self._loaded: tuple[int, np.ndarray, np.ndarray] | None = None

    def comparison(self, inputs: Inputs) -> Comparison:
        """In place of Comparison.of; the first call is for the honest output."""
        facts = _facts_of_code(inputs)
        if self._comparison is None:
            self._comparison = facts, self._compare(inputs)
        known, kept = self._comparison
        if facts != known:
            return self._compare(inputs)
        output = inputs.output
        right = replace(kept.right, image=output, octets=side.loaded_part(output))
        return replace(kept, inputs=inputs, code=replace(kept.code, right=right))

    def reproduction(self, compared: Comparison) -> Reproduction:
        """In place of `reproduce`."""
        facts = _facts_of_file(compared.inputs)
        if self._file is None:
            self._file = facts, self._reproduce(compared)
        known, kept = self._file
        return kept if facts == known else self._reproduce(compared)

    def _is_alike(self, compared: Comparison) -> bool:
        """Whether files correspond as the honest ones do."""
        return self._comparison is not None and (
            compared.code.bodies is self._comparison[1].code.bodies
        )

    def changes(self, compared: Comparison) -> list[Change]:
        """In place of `changes_of`."""
        if not self._is_alike(compared):
            return self._changes(compared)
        if self._made is None:
            self._made = self._changes(compared)
        return list(self._made)

    def put_loaded(
        self, canvas: Canvas, compared: Comparison, new: Layout, changes: list[Change]
    ) -> None:
        """In place of what puts code and data of the original on the canvas, up to what is added:
        it follows from the changes and the shift.
        """
        if self._loaded is None:
            self._put(canvas, compared, new, changes)
            end = new.memory_len
            self._loaded = new.shift_len, canvas.octets[:end].copy(), canvas.rows[:end].copy()
            assert not canvas.rows[end:].any()
            return
        shift_len, octets, rows = self._loaded
        if shift_len != new.shift_len or not self._is_alike(compared):
            self._put(canvas, compared, new, changes)
            return
        length = min(len(octets), len(canvas.octets))
        canvas.octets[:length], canvas.rows[:length] = octets[:length], rows[:length]


def _file_first(compared: Comparison) -> None:
    """The last check before all others: what it finds, it finds at the end as well, unless another
    rule has refused the file by then. It counts on nothing being broken, and may fail.
    """
    try:
        reproducing.check_file(compared)
    except (Refused, VmipatchError):
        raise
    except Exception as error:
        assert error  # The rules that come now have to refuse the file.


@contextmanager
def quick(original: ElfImage, *, is_file: bool = True) -> Iterator[None]:
    """While this lasts, proofs against `original` end early and repeat nothing.

    `is_file`: what is proven was written as a file, and is not the witness of a bzImage.
    """
    kept = _Kept()
    first: tuple[Check[Comparison], ...] = (Check((), _file_first),) if is_file else ()
    order = (*first, *check.OF_COMPARISON)
    with ExitStack() as stack:
        for module, name, value in (
            (check, "Report", FirstFinding),
            (check, "OF_COMPARISON", order),
            (side, "decode_second", _kept(decode_second)),
            (agreement, "decode", _kept(decode)),
            (comparison, "find_all", _of_one(find_all, original)),
            (Comparison, "of", kept.comparison),
            (reproducing, "reproduce", kept.reproduction),
            (making, "changes_of", kept.changes),
            (making, "_put_loaded", kept.put_loaded),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield
