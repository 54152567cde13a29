# SPDX-License-Identifier: MIT
"""Is this output the original, laid out anew, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.ascending import among, distinct
from vmipatch.image.code_pages import PAGE, code_pages
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.isa.emulated import CPUID, XEN_PREFIX, emulated_prefixes
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Role, TableName, Tables
from vmipatch.verify.static import data, headers, relocations, symbols
from vmipatch.verify.static.added import (
    check_added_words,
    check_fallback,
    check_thunk_calls,
    redirected,
)
from vmipatch.verify.static.agreement import check_agreement
from vmipatch.verify.static.bodies import Bodies, read_bodies
from vmipatch.verify.static.branches import check_branches
from vmipatch.verify.static.chunks import Chunks, correspond, has_symbols
from vmipatch.verify.static.early import check_early
from vmipatch.verify.static.entries import check_entries
from vmipatch.verify.static.fillers import check_fillers
from vmipatch.verify.static.images import NOWHERE, Images, words_in_code
from vmipatch.verify.static.inner import inner_labels
from vmipatch.verify.static.ledger import check_boundaries, check_decodings, prove_boundaries
from vmipatch.verify.static.links import check_links
from vmipatch.verify.static.manifest import SECTION as MANIFEST_SECTION
from vmipatch.verify.static.manifest import Manifest, read_manifest
from vmipatch.verify.static.matching import Match, match
from vmipatch.verify.static.outline import TRAMPOLINES, check_windows, outline
from vmipatch.verify.static.records import (
    RecordCheck,
    check_among_data,
    check_native,
    check_record_relocations,
)
from vmipatch.verify.static.rules import (
    BYTE_UNACCOUNTED,
    CODE_PAGE,
    EMULATED,
    INSIDE_BODY,
    OTHER_INPUT,
    PINNED,
    SEGMENT_HEADER,
)
from vmipatch.verify.static.sealed import check_runtime
from vmipatch.verify.static.side import I64, UD0, Flags, Landmarks, Side
from vmipatch.verify.static.tables import (
    TableCheck,
    copied_branches,
    covered_words,
    sorted_ranges,
)
from vmipatch.verify.static.thunks import check_thunks
from vmipatch.verify.static.verdict import RECOVERED, Report, StaticVerdict


def check_static(
    original: ElfImage,
    output: ElfImage,
    pinned: Sequence[tuple[int, int]] = (),
    original_sha256: str | None = None,
) -> StaticVerdict:
    """Prove that `output` is the rewritten `original`, or say where it is not.

    `pinned` are ranges of code (half-open; empty ones are single addresses) that must not have
    moved, because the original's references were recovered and some are in doubt.
    `original_sha256` is of the original's whole file, of which `original` may be a part; without
    it, the manifest is not asked what it was made from.
    Nothing of the rewriter is used, and the code is decoded with another library than the scan
    uses. Raises InputNotUnderstood if `original` has no symbols or a damaged table.
    """
    report = Report(output.symbols.place_of)
    if not has_symbols(original.symbols):
        raise InputNotUnderstood(
            "the original has no symbols to compare by",
            file=original.name,
            hint="give the vmlinux that was rewritten, not a stripped one",
        )
    manifest = read_manifest(output, report)
    if original_sha256 not in (None, manifest.input_sha256):
        message = f"made from {manifest.input_sha256}, the original has {original_sha256}"
        report.add(OTHER_INPUT, 0, message, MANIFEST_SECTION)
    if headers.check_headers(original, output, manifest, report) and symbols.check_identity(
        original, output, report
    ):
        proof = Proof(outline(original, manifest.windows, report), output, report)
        proof.run(manifest)
        proof.check_pinned(pinned)
    return report.verdict()


class Proof:
    """One comparison: what is known of both files, and the rules in their order."""

    def __init__(self, original: ElfImage, output: ElfImage, report: Report) -> None:
        self.original, self.output, self.report = original, output, report
        self.tables: Tables = find_all(original)
        self.relocated = Relocations.of(original).entries
        self.inner: I64 = inner_labels(original, _places(self.relocated))
        self.chunks: Chunks = correspond(original, output, self.inner, report)
        kept = {s.index for s in original.executable_sections}
        sections = [s for s in output.executable_sections if s.index in kept]
        moved = Relocations.of(output).entries
        traps = _short_traps(original, self.tables)
        known = Landmarks.of(original, self.chunks.o_va, traps, copied_branches(self.tables))
        self.left = Side.of(original, original.executable_sections, known, _places(self.relocated))
        check_agreement(self.left, known, report)
        self.opaque = known.opaque
        self.pages = code_pages(original)
        self.right = Side.of(
            output, sections, Landmarks.of(output, self.chunks.p_va, ()), _places(moved)
        )
        # What is a ud0 here must be the image of one there, and has as many bytes.
        images = self.right.beginning_with(UD0) if traps else ()
        check_agreement(self.right, Landmarks.of(output, self.chunks.p_va, images), report)
        self.sides = (self.left, self.right)
        self.bodies: Bodies = read_bodies(output, self.right, report)
        self.paired: Match = match(self.chunks, self.left, self.right, self.bodies, report)
        self.led_to = self._led_to()
        self.fillers = check_fillers(
            self.chunks, self.paired, self.left, self.right, self.bodies, self._anchored(), report
        )
        self.images = Images.of(
            original, output, self.sides, self.chunks, self.paired, self.bodies, self.fillers
        ).with_operands(self.inner, words_in_code(self.sides, self.paired, self.inner))
        self.new_places = self._new_places(_places(self.relocated))

    def run(self, manifest: Manifest) -> None:
        """Apply every rule that needs the address map."""
        report, images = self.report, self.images
        redirect = redirected(self.original, self.output, manifest, images, report)
        check_branches(images, self.sides, self.paired, redirect, report)
        self._check_relocations()
        tables = TableCheck(images, self.sides, self.paired, self.output, report)
        tables.check(self.tables)
        symbols.check_values(self.original, self.output, images, report)
        symbols.check_sizes(
            self.original,
            self.output,
            images,
            self.sides,
            self.paired,
            self.bodies,
            self.fillers,
            report,
        )
        self._check_data()
        RecordCheck(self.sides, self.paired, self.bodies, report).check(self.output)
        if is_linked_module(self.output):
            check_links(self.output, self.bodies, report)
        else:
            check_record_relocations(self.output, report)
        check_added_words(self.output, report)
        check_thunk_calls(self.output, report)
        runtime_va = check_runtime(
            self.original, self.output, self.tables, redirect, images, self.bodies, report
        )
        check_thunks(self.output, self.right, self.bodies, runtime_va, report)
        symbols.check_new(self.original, self.output, redirect, report)
        check_fallback(self.output, self.right, self.bodies, self._replacements(), report)
        check_native(self.right, self.bodies, manifest, report)
        check_early(self.original, self.tables, self.sides, self.paired, manifest, report)
        check_among_data(self.output, report)
        led_to = distinct(np.concatenate([self.led_to, self.chunks.o_va, self.inner]))
        places = _places(self.relocated)
        check_windows(self.original, manifest.windows, led_to, places, self.tables, report)
        self._check_ledger(manifest)
        self._check_inside()
        self._check_pages()
        self._check_emulated()
        check_entries(self.original, self.left, self.tables, images, report)
        self._check_entry()
        self._account()

    def check_pinned(self, pinned: Sequence[tuple[int, int]]) -> None:
        """What lies in these ranges, or begins at them, is where it was."""
        code = self.images.code_o
        for start, end in pinned:
            at = np.searchsorted(code, [start, max(end, start + 1)])
            was, now = code[at[0] : at[1]], self.images.self_p[at[0] : at[1]]
            # In a window that is out of line the addresses do not go on.
            moved = np.flatnonzero((was != now) & ~self._is_out_of_line(now))
            self.report.counts[RECOVERED] += len(was)
            for i in moved[:1].tolist():
                message = f"{int(was[i]):#x} moved to {int(now[i]):#x}"
                self.report.add(PINNED, int(now[i]), message)

    def _is_out_of_line(self, vas: I64) -> Flags:
        section = self.output.section_by_name.get(TRAMPOLINES)
        if section is None:
            return np.zeros(len(vas), np.bool_)
        return np.asarray((vas >= section.va) & (vas < section.end_va))

    def _led_to(self) -> I64:
        """Every address of the original that a branch, relocation or table leads to."""
        branches = np.flatnonzero(self.left.widths > 0)
        relative = self.relocated["kind"] != R_386_32
        words = self.relocated["value"].astype(np.int64)
        words = (words + np.where(relative, _places(self.relocated), 0)) & 0xFFFFFFFF
        tables = [t.address_words["target_va"].astype(np.int64) for t in self.tables]
        places = _places(self.relocated)
        named = [t.operand_words["va"].astype(np.int64) for t in self.tables]
        operands = distinct(np.concatenate([np.zeros(0, np.int64), *named]))
        words = words[~self._in_branch(places) & ~among(places, operands)]
        return distinct(np.concatenate([self.left.linked_targets(branches), words, *tables]))

    def _anchored(self) -> Flags:
        """Instructions that something leads to, or that the kernel counts on as they are."""
        result = np.zeros(len(self.left), np.bool_)
        index = self.left.find(self.led_to)
        result[index[index >= 0]] = True
        for table in self.tables:
            places = table.places[table.places["len"] > 0]
            start = places["va"].astype(np.int64)
            begin = np.searchsorted(self.left.starts, start)
            end = np.searchsorted(self.left.starts, start + places["len"])
            for low, high in zip(begin.tolist(), end.tolist(), strict=True):
                result[low:high] = True
        return result

    def _in_branch(self, vas: I64) -> Flags:
        """Which words are displacements of direct branches."""
        over = self.left.over(vas)
        index = np.maximum(over, 0)
        at_end = self.left.ends[index] - vas == 4
        return np.asarray((over >= 0) & (self.left.widths[index] == 4) & at_end)

    def _new_places(self, vas: I64) -> I64:
        """Where words of the original are in the output."""
        in_code = self.left.over(vas) >= 0
        code = words_in_code(self.sides, self.paired, vas)
        return np.where(in_code, code, self.images(vas))

    def _check_relocations(self) -> None:
        places = _places(self.relocated)
        judged = ~self._in_branch(places) & ~among(places, distinct(covered_words(self.tables)))
        for start, end in sorted_ranges(self.tables):
            # Where a table was sorted after the link, its relocations no longer tell what it holds.
            judged &= (places < start) | (places >= end)
        rows = self.relocated[judged]
        relative = rows["kind"] != R_386_32
        value = rows["value"].astype(np.int64)
        words = relocations.Words(
            va=places[judged],
            kind=rows["kind"].astype(np.int64),
            symbol=rows["symbol"].astype(np.int64),
            target=(value + np.where(relative, places[judged], 0)) & 0xFFFFFFFF,
            new_va=self.new_places[judged],
        )
        relocations.check_words(words, self.images, self.original, self.output, self.report)
        expected = {
            s.index: self._entry_places(s.info, relocations.raw_entries(self.original, s))
            for s in relocations.rel_sections(self.original)
            if not relocations.is_dropped(s, self.output)
        }
        free = [np.arange(s, e, dtype=np.int64) for s, e in sorted_ranges(self.tables)]
        free_va = self.images(np.concatenate([np.zeros(0, np.int64), *free]))
        relocations.check_entries(self.original, self.output, expected, free_va, self.report)

    def _entry_places(self, applies_to: int, raw: np.ndarray) -> I64:
        vas = raw["offset"].astype(np.int64)
        return self._new_places(vas) if self.original.sections[applies_to].is_alloc else vas

    def _check_data(self) -> None:
        in_data = [t for t in self.tables if not t.in_code]
        words = np.concatenate([_places(self.relocated), covered_words(Tables(tuple(in_data)))])
        whole = [(s, e, self.images.one(s)) for s, e in sorted_ranges(self.tables)]
        new = self._new_places(words)
        usable = new != NOWHERE
        args = (words[usable], new[usable], whole, self.report)
        data.check_data(self.original, self.output, *args)
        data.check_unloaded_sizes(self.original, self.output, self.report)

    def _replacements(self) -> list[tuple[int, int]]:
        """Ranges of the output that hold alternatives: they run where they are copied to."""
        table = self.tables.get(TableName.ALTERNATIVES)
        if table is None:
            return []
        places = table.places_of(Role.REPLACEMENT)
        places = places[places["len"] > 0]
        start = self.images(places["va"].astype(np.int64))
        return list(zip(start.tolist(), (start + places["len"]).tolist(), strict=True))

    def _check_ledger(self, manifest: Manifest) -> None:
        """Every byte of code, and every sensitive decoding at whatever byte."""
        offset = self.images.physical
        absolute = self.relocated["kind"] == R_386_32
        values = self.relocated["value"].astype(np.int64)[absolute]
        entry = self.original.entry
        entries = [entry, entry + offset]
        held = distinct(np.concatenate([values, values + offset, entries]))
        references = distinct(np.concatenate([self.led_to, held]))
        branches = distinct(self.left.linked_targets(np.flatnonzero(self.left.widths > 0)))
        # What only a branch leads to is proven by that branch, if it is proven itself.
        references = references[~among(references, branches) | among(references, held)]
        proven = prove_boundaries(self.original, self.left, self.tables, references, self.inner)
        for start, end in self.opaque:
            here = (self.left.starts >= start) & (self.left.starts < end)
            proven.reached[here] = False  # not as code of 32 bits
        check_boundaries(self.left, proven, bool(len(self.relocated)), self.report)
        check_decodings(
            self.output, self.right, self.paired, proven, self.bodies, manifest, self.report
        )

    def _check_inside(self) -> None:
        """Nothing leads to an address inside of a body."""
        led_to = distinct(np.concatenate([self.led_to, self.inner]))
        images = self.images(led_to)
        index = self.right.over(images)
        body = np.where(index >= 0, self.bodies.body_of[np.maximum(index, 0)], -1)
        first = np.array([int(self.right.starts[b.first]) for b in self.bodies.bodies] or [0])
        inside = (body >= 0) & (images != first[np.maximum(body, 0)]) & (images != NOWHERE)
        for i in np.flatnonzero(inside).tolist():
            message = f"something led to {led_to[i]:#x}: now inside of a body"
            self.report.add(INSIDE_BODY, int(images[i]), message)

    def _check_pages(self) -> None:
        """Pages that are copied or written as a whole are in one piece, and aligned."""
        for start, end in self.pages:
            vas = np.arange(start, end, dtype=np.int64)
            new = self.images(vas)
            known = new != NOWHERE  # of an instruction its first byte
            moved = new[known] - vas[known]
            for i in np.flatnonzero(moved != moved[0])[:1].tolist():
                message = f"{int(vas[known][i]):#x} does not move with {start:#x}, the page's start"
                self.report.add(CODE_PAGE, int(new[0]), message)
            if start % PAGE == 0 and new[0] % PAGE:
                message = f"the page of code at {start:#x} is at {int(new[0]):#x}, in two pages"
                self.report.add(CODE_PAGE, int(new[0]), message)

    def _check_emulated(self) -> None:
        """After each prefix of Xen stands the cpuid that it is for, as it was."""
        for section in self.left.sections:
            code = self.original.section_bytes(section)
            vas = np.array(emulated_prefixes(code), np.int64) + section.va
            for was, now in zip(vas.tolist(), self.images(vas).tolist(), strict=True):
                after = self.right.find(np.array([now + len(XEN_PREFIX)]))[0]
                whole = XEN_PREFIX + CPUID
                kept = now != NOWHERE and self.output.read(now, len(whole)) == whole
                if not kept or after < 0 or self.bodies.body_of[after] >= 0:
                    message = f"the prefix of Xen at {was:#x} is not in front of its cpuid"
                    self.report.add(EMULATED, now, message)

    def _check_entry(self) -> None:
        """The loader enters at the image of the instruction it entered at."""
        was, now = self.original.entry, self.output.entry
        base = 0 if self.left.section_of(was) else self.images.physical
        should = self.images.one(was + base)
        if now + base != should:
            message = f"entered at {now:#x}, should be at {should - base:#x}"
            self.report.add(SEGMENT_HEADER, now + base, message, "ELF header")

    def _account(self) -> None:
        """Every byte of the output's code belongs to a chunk; count them by what they are."""
        length = self.chunks.p_end - self.chunks.p_va
        for section in self.right.sections:
            here = (self.chunks.p_va >= section.va) & (self.chunks.p_va < section.end_va)
            missing = section.size - int(length[here].sum())
            if missing:
                message = f"{missing} bytes belong to no code of the original"
                self.report.add(BYTE_UNACCOUNTED, section.va, message, section.name)
        counts = self.report.counts
        counts["code bytes"] += int(self.right.lens[self.paired.p].sum())
        counts["site padding bytes"] += int(self.right.lens[self.bodies.is_pad].sum())
        filler = (self.right.fillers > 0) & ~self.bodies.is_pad
        counts["filler bytes"] += int(self.right.lens[filler].sum())
        new = self.output.sections[len(self.original.sections) :]
        counts["new bytes"] += sum(s.size for s in new if s.is_alloc)
        counts["chunks"] += len(self.chunks)


def _short_traps(image: ElfImage, tables: Tables) -> list[int]:
    """Each ud0 that the bug table names: it is a WARN(), and has no ModRM byte."""
    bugs = tables.places(TableName.BUG_TABLE, Role.INSTRUCTION)["va"].tolist()
    return [va for va in bugs if image.read(va, len(UD0)) == UD0]


def _places(entries: np.ndarray) -> I64:
    return entries["va"].astype(np.int64)
