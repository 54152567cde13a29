# SPDX-License-Identifier: MIT
"""What is known of an original and its output, that every rule may ask for?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.relocations import Relocations
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Tables
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.chunks import Chunks
from vmipatch.verify.static.code import CodePair
from vmipatch.verify.static.fillers import KeptFillers, compare_fillers
from vmipatch.verify.static.hook import Hook, find_hook
from vmipatch.verify.static.images import Images, words_in_code
from vmipatch.verify.static.inner import inner_labels
from vmipatch.verify.static.manifest import Manifest
from vmipatch.verify.static.matching import Match, match
from vmipatch.verify.static.outline import outline
from vmipatch.verify.static.rules import Rule
from vmipatch.verify.static.side import I64, Side
from vmipatch.verify.static.targets import anchored, targets
from vmipatch.verify.static.verdict import Report

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """A function that judges a subject, and the rules whose findings it may report."""

    rules: tuple[Rule, ...]
    run: Callable[[Subject], None]

    def __call__(self, subject: Subject) -> None:
        """Report to the subject's report all that breaks one of the rules."""
        self.run(subject)


def judges(*rules: Rule) -> Callable[[Callable[[Subject], None]], Check[Subject]]:
    """Register a function as the check of `rules`."""
    return lambda run: Check(rules, run)


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Two files as they were read, and what is claimed of them."""

    original: ElfImage
    output: ElfImage
    manifest: Manifest
    report: Report
    """Where every check puts its findings and counts."""
    pinned: tuple[tuple[int, int], ...] = ()
    """Ranges of the original's code that must not have moved; empty ones are single addresses."""
    original_sha256: str | None = None
    """Of the whole file that `original` may be a part of; None: not known."""
    must_run: bool = False
    """Whether the output has to have a runtime that something enters."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Both files with everything that was found out about how they belong together."""

    inputs: Inputs
    original: ElfImage
    """The original with the manifest's windows out of line."""
    tables: Tables
    """The original's kernel tables."""
    relocated: np.ndarray
    """The original's relocated words (Relocations.entries)."""
    inner: I64
    """Labels of the original that name an operand inside of an instruction, ascending."""
    code: CodePair
    paired: Match
    targets: I64
    """Addresses of the original to which a branch, relocation or table points, ascending."""
    fillers: KeptFillers
    images: Images
    hook: Hook | None
    """The function before which the runtime runs; None of a module."""

    @classmethod
    def of(cls, inputs: Inputs) -> Comparison:
        """Find everything out. Raises MalformedTable if a table of the original is damaged.

        What has no counterpart is reported here, by the rules of ON_THE_WAY.
        """
        report, output = inputs.report, inputs.output
        original = outline(inputs.original, inputs.manifest.windows, report)
        tables = find_all(original)
        relocated = Relocations.of(original).entries
        places = relocated["va"].astype(np.int64)
        inner = inner_labels(original, places)
        code = CodePair.of(original, output, tables, inner, inputs.manifest.keep, report)
        paired = match(code, report)
        led = targets(code.left, relocated, tables)
        fillers = compare_fillers(code, paired, anchored(code.left, led, tables), report)
        images = Images.of(code, paired, fillers).with_operands(
            inner, words_in_code(code, paired, inner)
        )
        hook = None
        if not is_linked_module(original):
            objects = code.kept.objects
            hook = find_hook(code.left, relocated, tables, inputs.manifest.start, objects)
        return cls(
            inputs, original, tables, relocated, inner, code, paired, led, fillers, images, hook
        )

    @property
    def output(self) -> ElfImage:
        """The file that is to be proven."""
        return self.inputs.output

    @property
    def manifest(self) -> Manifest:
        """The claims of the output."""
        return self.inputs.manifest

    @property
    def redirect(self) -> Mapping[int, int]:
        """Original addresses, and those that branches to them target instead of their images."""
        return self.inputs.manifest.redirect

    def redirected(self, images: I64, targets: I64, places: I64) -> I64:
        """The `images` of the `targets` of branches at `places`, redirected where they are.

        What branches to the hook from inside of it is one of its loops.
        """
        result = images.copy()
        for old_va, new_va in self.redirect.items():
            mine = targets == old_va
            if self.hook is not None and old_va == self.hook.va:
                mine &= (places < self.hook.va) | (places >= self.hook.end_va)
            result[mine] = new_va
        return result

    @property
    def runtime_va(self) -> int | None:
        """Where what enters the hook arrives, as the manifest says."""
        return None if self.hook is None else self.redirect.get(self.hook.va)

    @property
    def report(self) -> Report:
        """Where every check puts its findings and counts."""
        return self.inputs.report

    @property
    def chunks(self) -> Chunks:
        """Which stretch of the output belongs to which of the original."""
        return self.code.chunks

    @property
    def left(self) -> Side:
        """The original's code."""
        return self.code.left

    @property
    def right(self) -> Side:
        """The output's code that is the original's."""
        return self.code.right

    @property
    def bodies(self) -> Bodies:
        """The native bodies of the output's records."""
        return self.code.bodies

    @property
    def places(self) -> I64:
        """Addresses of the original's relocated words."""
        places: I64 = self.relocated["va"].astype(np.int64)
        return places

    def new_places(self, vas: I64) -> I64:
        """Where words of the original, in code or data, are in the output."""
        in_code = self.left.over(vas) >= 0
        return np.where(in_code, self.words_in_code(vas), self.images(vas))

    def words_in_code(self, vas: I64) -> I64:
        """Where words inside instructions of the original stand in the output."""
        return words_in_code(self.code, self.paired, vas)
