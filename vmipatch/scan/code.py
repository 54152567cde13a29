# SPDX-License-Identifier: MIT
"""All code of an image, decoded, and everything that points into it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.image.ascending import among, distinct
from vmipatch.image.code_pages import code_pages
from vmipatch.image.elf import ElfImage
from vmipatch.image.entry_points import entry_points
from vmipatch.image.hook import START
from vmipatch.image.kept import Kept, ranges_in
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE
from vmipatch.image.types import Section
from vmipatch.isa.decode import InstructionStream, decode
from vmipatch.isa.inner import inner_labels
from vmipatch.scan.entry_arrays import EntryArray, entry_arrays
from vmipatch.scan.hook import Hook, find_hook
from vmipatch.tables.find import find_all, find_readable
from vmipatch.tables.table import TableName, Tables, WordForm
from vmipatch.tables.traps import inline_data, two_byte_traps

NOTHING_KEPT = Kept((), (), (), ())


@dataclass(frozen=True)
class CodeMap:
    """The executable sections of an image as instruction streams, with relocations and tables."""

    image: ElfImage
    streams: dict[int, InstructionStream] = field(hash=False)
    """By section index, in address order."""
    relocations: Relocations
    tables: Tables
    inner_labels: tuple[int, ...] = ()
    """Addresses of labels that name an operand inside of an instruction, ascending."""
    refused: tuple[str, ...] = ()
    """Places and reasons of the tables that fit no known layout: only a census goes on then."""
    start: str = START
    """The function before which the runtime is to run."""
    kept: Kept = NOTHING_KEPT
    """Ranges of the sections that are not decoded, and stay byte for byte."""

    @classmethod
    def of(
        cls,
        image: ElfImage,
        *,
        tolerant: bool = False,
        start: str = START,
        keep: Sequence[str] = (),
    ) -> CodeMap:
        """Decode every executable section, starting anew at each symbol and after inline data.

        `tolerant`: tables that fit no known layout are left out, and told in `refused`. `keep`
        names ranges (`START..END`) that are not decoded. Raises MalformedImage, InputNotUnderstood
        for a name of `keep` that is not one and, unless tolerant, MalformedTable.
        """
        refused: tuple[MalformedTable, ...] = ()
        if tolerant:
            tables, refused = find_readable(image)
        else:
            tables = find_all(image)
        labels, ends = _labels_by_section(image), function_ends(image)
        relocations = Relocations.of(image)
        inner = _inner_labels(image, labels, relocations)
        short_traps = two_byte_traps(image, tables)
        kept = Kept.of(image, keep)
        opaque = kept.ranges
        entries = entry_points(image)
        streams = {
            section.index: decode(
                image.section_bytes(section),
                section.va,
                [*(va for va in labels[section.index] if va not in inner), *short_traps, *entries],
                inline_data(tables),
                ends,
                ranges_in(opaque, section.va, section.end_va),
            )
            for section in image.executable_sections
        }
        reasons = tuple(f"{each.place}: {each.message}" for each in refused)
        return cls(image, streams, relocations, tables, tuple(sorted(inner)), reasons, start, kept)

    def __iter__(self) -> Iterator[tuple[Section, InstructionStream]]:
        return ((self.image.sections[index], stream) for index, stream in self.streams.items())

    def stream_at(self, va: int) -> InstructionStream | None:
        """The stream that covers `va`, or None outside of code."""
        return next((s for s in self.streams.values() if s.va <= va < s.end_va), None)

    @cached_property
    def hook(self) -> Hook | None:
        """The ways into `start`; None if no code has that name, or several have it."""
        return find_hook(self, self.start)

    @cached_property
    def pages(self) -> list[tuple[int, int]]:
        """Pages of code, [start, end), that are copied or written as a whole."""
        return code_pages(self.image)

    @cached_property
    def arrays(self) -> list[EntryArray]:
        """Functions that may be entered by computed addresses, ascending."""
        words = self.relocations.entries
        place = words["va"].astype(np.int64)
        value = words["value"].astype(np.int64)
        absolute = words["kind"] == R_386_32
        known = absolute | ~_within(place, self.streams.values())
        traps = self.tables.get(TableName.EX_TABLE)
        if traps is not None:  # it names instructions, which may be the first of an entry
            known &= (place < traps.start_va) | (place >= traps.end_va)
        held = (value + np.where(absolute, 0, place)) & 0xFFFFFFFF
        stubs = self.tables.places(TableName.STATIC_CALLS)["va"].astype(np.int64)
        branches = [self.linked_targets(stream) for stream in self.streams.values()]
        return entry_arrays(self.image, distinct(np.concatenate([held[known], stubs, *branches])))

    @cached_property
    def consistency(self) -> tuple[int, int]:
        """How many direct branches target code, and how many of them the inside of an instruction.

        Of code that decoding from end to end has found where it is, hardly any does.
        """
        starts = [stream.starts.astype(np.int64) for stream in self.streams.values()]
        targets = [self.linked_targets(stream) for stream in self.streams.values()]
        every = np.concatenate([np.zeros(0, np.int64), *targets])
        inside = every[_within(every, self.streams.values())]
        known = distinct(np.concatenate([np.zeros(0, np.int64), *starts]))
        return len(inside), len(inside) - int(among(inside, known).sum())

    @property
    def page_offset(self) -> int:
        """Virtual minus physical address of .text (PAGE_OFFSET in Linux)."""
        return self.image.page_offset

    def linked_targets(self, stream: InstructionStream) -> np.ndarray:
        """Linked target of each of the stream's branches (i64).

        Code that runs where the kernel is loaded, and not where it is linked, may jump to
        `x + PAGE_OFFSET`: from there that is x as linked. One that leaves again jumps to
        `x - PAGE_OFFSET`. No other branch is that far from the kernel and hits its code. A jump
        that only its copy executes has the target of the copy.
        """
        found = self._linked_targets.get(stream.va)
        if found is None:
            found = _linked(stream.branch_targets, self.page_offset, self.streams.values())
            for table in self.tables:
                words = table.words[table.words["form"] == WordForm.COPIED_BRANCH]
                place, target = words["va"].astype(np.int64), words["target_va"]
                within = (place >= stream.va) & (place < stream.end_va)
                starts = stream.starts[stream.branches].astype(np.int64)
                at = np.searchsorted(starts, place[within], side="right") - 1
                found[at] = target[within]
            self._linked_targets[stream.va] = found
        return found

    @cached_property
    def _linked_targets(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def function_starts(self) -> np.ndarray:
        """Addresses of function symbols, ascending (i64)."""
        entries = self.image.symbols.entries
        functions = entries[(entries["info"] & 15) == STT_FUNC]
        return distinct(functions["value"].astype(np.int64))

    @cached_property
    def targets(self) -> np.ndarray:
        """Every address that something leads or points to, ascending (i64).

        Direct branches, absolute words, table entries and symbols. Nothing may be fused or
        removed across one of them.
        """
        words = self.relocations.entries
        absolute = words["value"][words["kind"] == R_386_32].astype(np.int64)
        parts = [absolute, absolute + self.page_offset]
        parts += [self.linked_targets(stream) for stream in self.streams.values()]
        parts += [table.address_words["target_va"].astype(np.int64) for table in self.tables]
        parts += [table.instruction_places["va"].astype(np.int64) for table in self.tables]
        entries = self.image.symbols.entries
        parts.append(entries["value"][entries["shndx"] < SHN_ABS].astype(np.int64))
        return distinct(np.concatenate(parts))

    def is_target(self, va: int) -> bool:
        """Whether anything leads or points to `va`."""
        at = int(np.searchsorted(self.targets, va))
        return at < len(self.targets) and int(self.targets[at]) == va


def _linked(
    targets: np.ndarray, page_offset: int, streams: Collection[InstructionStream]
) -> np.ndarray:
    """The targets (i64), those in no code replaced by what lies a page offset away in code."""
    result = targets.copy()
    for offset in (page_offset, -page_offset) if page_offset else ():
        twin = (targets - offset) & 0xFFFFFFFF
        far = ~_within(targets, streams) & _within(twin, streams)
        result[far] = twin[far]
    return result


def _within(vas: np.ndarray, streams: Collection[InstructionStream]) -> np.ndarray:
    """Which addresses lie in code (bool array)."""
    result = np.zeros(len(vas), np.bool_)
    for stream in streams:
        result |= (vas >= stream.va) & (vas < stream.end_va)
    return result


def _inner_labels(
    image: ElfImage, labels: dict[int, list[int]], relocations: Relocations
) -> frozenset[int]:
    entries = image.symbols.entries
    plain = (entries["info"] & 15 == STT_NOTYPE) & (entries["size"] == 0)
    candidates = frozenset(entries["value"][plain & (entries["shndx"] < SHN_ABS)].tolist())
    words = frozenset(relocations.entries["va"].tolist())
    return frozenset(
        va
        for section in image.executable_sections
        for va in inner_labels(
            image.section_bytes(section), section.va, labels[section.index], candidates, words
        )
    )


def function_ends(image: ElfImage) -> list[int]:
    """Addresses at which functions of known size end."""
    entries = image.symbols.entries
    sized = entries[((entries["info"] & 15) == STT_FUNC) & (entries["size"] > 0)]
    ends: list[int] = (sized["value"].astype(np.int64) + sized["size"]).tolist()
    return ends


def _labels_by_section(image: ElfImage) -> dict[int, list[int]]:
    """Addresses of functions and labels, by section index; assembler-local labels left out."""
    table = image.symbols
    entries = table.entries
    kinds = entries["info"] & 15
    wanted = ((kinds == STT_FUNC) | (kinds == STT_NOTYPE)) & (entries["shndx"] < SHN_ABS)
    labels = entries[wanted & ~table.is_local_label]
    return {
        section.index: labels["value"][labels["shndx"] == section.index].tolist()
        for section in image.executable_sections
    }
