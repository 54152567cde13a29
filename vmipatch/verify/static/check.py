# SPDX-License-Identifier: MIT
"""Is this output the original, laid out anew, and nothing else?

The list of all checks: each is a function of the two files, or of what is known of both together,
and names the rules whose findings it reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.verify.static.account import check_bytes, check_entry
from vmipatch.verify.static.added import check_added_words, check_redirects, check_thunk_calls
from vmipatch.verify.static.added_sections import check_added_sections, check_raw_flags
from vmipatch.verify.static.agreement import check_agreement
from vmipatch.verify.static.alignments import check_alignments
from vmipatch.verify.static.branches import check_branches
from vmipatch.verify.static.chunks import has_symbols
from vmipatch.verify.static.comparison import Check, Comparison, Inputs
from vmipatch.verify.static.data import check_data
from vmipatch.verify.static.entries import check_entries
from vmipatch.verify.static.fallback import check_fallback
from vmipatch.verify.static.growth import check_growth
from vmipatch.verify.static.headers import check_headers, is_comparable
from vmipatch.verify.static.inside import check_inside
from vmipatch.verify.static.instructions import check_instructions
from vmipatch.verify.static.ledger import check_ledger
from vmipatch.verify.static.lengths import check_lengths, is_bounded
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.origin import check_origin
from vmipatch.verify.static.own_address import check_own_addresses
from vmipatch.verify.static.pinned import check_pinned
from vmipatch.verify.static.records import (
    check_among_data,
    check_native,
    check_record_relocations,
    check_records,
)
from vmipatch.verify.static.relocations import check_relocation_entries, check_words
from vmipatch.verify.static.reproduce.check import check_file
from vmipatch.verify.static.rules import (
    CHUNK_LOST,
    INSTRUCTION_CHANGED,
    MANIFEST,
    PADDING_CHANGED,
    RECORD_BODY,
    RECORD_CALL,
    RECORD_OVERLAP,
    WINDOW,
    Rule,
)
from vmipatch.verify.static.sealed import check_runtime
from vmipatch.verify.static.second_reader import check_readers
from vmipatch.verify.static.sequence import check_sequence
from vmipatch.verify.static.sites import check_pairs, check_zones
from vmipatch.verify.static.spare import check_shift
from vmipatch.verify.static.symbols import (
    check_identity,
    check_new_symbols,
    check_sizes,
    check_values,
)
from vmipatch.verify.static.tables import check_tables
from vmipatch.verify.static.thunks import check_thunks
from vmipatch.verify.static.translations import check_translations
from vmipatch.verify.static.verdict import Report, StaticVerdict
from vmipatch.verify.static.way_back import check_way_back
from vmipatch.verify.static.whole import check_emulated, check_pages
from vmipatch.verify.static.windows import check_whole_windows, check_windows

ON_THE_WAY: tuple[Rule, ...] = (
    CHUNK_LOST,
    INSTRUCTION_CHANGED,
    MANIFEST,
    PADDING_CHANGED,
    RECORD_BODY,
    RECORD_CALL,
    RECORD_OVERLAP,
    WINDOW,
)
"""Rules that are also judged while the comparison is made: what breaks them has no counterpart."""

OF_FILES: tuple[Check[Inputs], ...] = (
    check_origin,
    check_readers,
    check_headers,
    check_raw_flags,
    check_added_sections,
    check_lengths,
    check_identity,
)
"""Checks of two files, whatever they are."""

OF_COMPARISON: tuple[Check[Comparison], ...] = (
    check_agreement,
    check_instructions,
    check_sequence,
    check_redirects,
    check_branches,
    check_words,
    check_relocation_entries,
    check_tables,
    check_values,
    check_sizes,
    check_data,
    check_records,
    check_translations,
    check_record_relocations,
    check_added_words,
    check_thunk_calls,
    check_runtime,
    check_shift,
    check_thunks,
    check_new_symbols,
    check_fallback,
    check_native,
    check_zones,
    check_pairs,
    check_among_data,
    check_windows,
    check_whole_windows,
    check_ledger,
    check_inside,
    check_pages,
    check_emulated,
    check_entries,
    check_growth,
    check_alignments,
    check_own_addresses,
    check_entry,
    check_bytes,
    check_pinned,
)
"""Checks of an original and an output that have the same sections and symbols."""


def check_static(
    original: ElfImage,
    output: ElfImage,
    pinned: Sequence[tuple[int, int]] = (),
    original_sha256: str | None = None,
    *,
    is_witness: bool = False,
    must_run: bool = False,
    of_file: Callable[[Comparison], None] = check_file,
) -> StaticVerdict:
    """Prove that `output` is the rewritten `original`, or say where it is not.

    `pinned` are ranges of code (half-open; empty ones are single addresses) that must not have
    moved, because the original's references were recovered and some are in doubt.
    `original_sha256` is of the original's whole file, of which `original` may be a part; without
    it, manifest and note are not asked what it was made from. `is_witness`: the output is the
    kernel of a bzImage, whose notes are proven with that. `must_run`: it has a runtime that
    something enters, as every kernel that is shipped. `of_file` compares the file of the output to
    the last byte after all other checks; not that of a witness, which was never written.
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
    inputs = Inputs(original, output, manifest, report, tuple(pinned), original_sha256, must_run)
    for check_files in OF_FILES:
        check_files(inputs)
    if not is_bounded(inputs):
        return report.verdict()
    if is_comparable(inputs):
        comparison = Comparison.of(inputs)
        for check in (*OF_COMPARISON, *(() if is_witness else (of_file,))):
            check(comparison)
    if original_sha256 is not None and not is_witness and not is_linked_module(original):
        check_way_back(original, output, original_sha256, report)
    return report.verdict()
