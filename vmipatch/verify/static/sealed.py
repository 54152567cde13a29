# SPDX-License-Identifier: MIT
"""Is the runtime in the output the one that this version of vmipatch assembles for it?

The runtime is assembled once more, from facts that are read from the output (its sections) and
from the proof's own address map, and compared byte by byte, its two sums and the filler after it
included.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import mapped_range, records_in_room
from vmipatch.image.types import Section
from vmipatch.runtime import Runtime, RuntimeFacts, build_runtime
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.log_levels import has_old_levels, logger_of
from vmipatch.tables.paravirt_calls import call_keeper
from vmipatch.verify.static.added import LOADER, NEW_CODE
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.hook import Hook
from vmipatch.verify.static.rules import REDIRECTED, RUNTIME
from vmipatch.verify.static.verdict import Report

PARTS = (
    ".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback", ".vmi.translation"
)  # fmt: skip
"""The sections of the annotation segment in address order: all are summed up."""
COPY_ALIGN = 16
INT3 = 0xCC
WORD = struct.Struct("<I")


def runtime_start(comparison: Comparison) -> int:
    """Where the runtime begins, which is where the thunks end.

    The end of the added code if the kernel has no hook and therefore no runtime, or if nothing in
    the added code is said to be it; 0 if there is no added code.
    """
    code = comparison.output.section_by_name.get(NEW_CODE)
    if code is None:
        return 0
    runtime_va = comparison.runtime_va
    return code.end_va if runtime_va is None or runtime_va not in code else runtime_va


@judges(RUNTIME, REDIRECTED)
def check_runtime(comparison: Comparison) -> None:
    """Compare the runtime with the one that should be there, and judge what lies after it."""
    output, report = comparison.output, comparison.report
    code = output.section_by_name.get(NEW_CODE)
    parts = [output.section_by_name.get(name) for name in PARTS]
    if code is None:
        report.add(RUNTIME, 0, "there is no added code", NEW_CODE)
        return
    hook = comparison.hook
    if hook is None:
        return
    runtime_va = runtime_start(comparison)
    if runtime_va == code.end_va:
        message = f"{hook.name} has callers, and none of them is redirected to the runtime"
        report.add(REDIRECTED, code.va, message, NEW_CODE)
        return
    whole = [part for part in parts if part is not None]
    if len(whole) < len(PARTS):
        report.add(RUNTIME, runtime_va, "sections that it walks are missing", NEW_CODE)
        return
    should, runtime = _expected(comparison, hook, runtime_va, code, whole)
    _check_labels(comparison, hook, runtime)
    _compare(output.read(runtime_va, code.end_va - runtime_va), should, runtime_va, report)
    report.counts["runtime bytes"] += len(should)


def _facts(comparison: Comparison, hook: Hook, code: Section, parts: list[Section]) -> RuntimeFacts:
    """The runtime's facts; where the ROM may be copied to is not known yet."""
    original, images = comparison.original, comparison.images
    records, init_records, thunk_calls, fallback, translations = parts
    logger = logger_of(original)
    loader = original.symbols.address(LOADER)
    keeper = call_keeper(original.symbols, comparison.tables)
    image_pa, image_end_pa = _physical_range(comparison)
    # Symbols have a rule of their own.
    entry_va, entry_end_va = entry_text(comparison.output.symbols)
    return RuntimeFacts(
        page_offset=images.physical,
        start_kernel=images.one(hook.va),
        printk=0 if logger is None else images.one(logger),
        old_levels=int(has_old_levels(original)),
        module_finalize=0 if loader is None else images.one(loader),
        annotation=records.va,
        annotation_end=init_records.end_va,
        thunk_calls=thunk_calls.va,
        thunk_calls_end=thunk_calls.end_va,
        fallback=fallback.va,
        fallback_end=fallback.end_va,
        sum_start=records.va,
        sum_end=translations.end_va,
        copy=code.end_va,
        copy_len=0x7FFFFFFF,
        text=code.va,
        text_end=code.end_va,
        entry_text=entry_va,
        entry_text_end=entry_end_va,
        keep_calls=images.one(keeper.va) if keeper else 0,
        keep_value=keeper.value if keeper else 0,
        image_pa=image_pa,
        image_end_pa=image_end_pa,
    )


def _physical_range(comparison: Comparison) -> tuple[int, int]:
    """Where the output is in physical memory, if the runtime has to look at page tables."""
    if not records_in_room(comparison.manifest.start):
        return 0, 0
    start_va, end_va = mapped_range(comparison.original)
    offset = comparison.images.physical
    return start_va - offset, end_va + comparison.manifest.shift_len - offset


def _check_labels(comparison: Comparison, hook: Hook, runtime: Runtime) -> None:
    """Redirected branches arrive at the labels of the runtime that were made for them."""
    loader_va = comparison.original.symbols.address(LOADER)
    for name, old_va, label_va in (
        (hook.name, hook.va, runtime.entry),
        (LOADER, loader_va, runtime.module_entry),
    ):
        if old_va is not None and comparison.redirect.get(old_va) != label_va:
            message = f"callers of {name} do not arrive at {label_va:#x}, its label in the runtime"
            comparison.report.add(REDIRECTED, label_va, message)


def _expected(
    comparison: Comparison, hook: Hook, va: int, code: Section, parts: list[Section]
) -> tuple[bytes, Runtime]:
    """The bytes that belong from `va` to the end of `code`: runtime with its sums, and int3.

    Also returns the runtime, without its sums.
    """
    output, facts = comparison.output, _facts(comparison, hook, code, parts)
    behind_va = va + len(build_runtime(facts, va).code)
    copy_va = -(-behind_va // COPY_ALIGN) * COPY_ALIGN
    facts = replace(facts, copy=copy_va, copy_len=max(code.end_va - copy_va, 0))
    runtime = build_runtime(facts, va)
    result = bytearray(runtime.code)
    for at_va, value in (
        (runtime.segment_sum_va, _sum_of_words(b"".join(output.section_bytes(p) for p in parts))),
        (runtime.native_sum_va, _sum_of_sites(output, comparison.bodies)),
    ):
        WORD.pack_into(result, at_va - va, value)
    return bytes(result.ljust(code.end_va - va, bytes((INT3,)))), runtime


def _sum_of_words(data: bytes) -> int:
    """The sum of the words of the annotation segment, modulo 2^32."""
    words = np.frombuffer(data[: len(data) // WORD.size * WORD.size], "<u4")
    return int(words.sum(dtype=np.uint64)) & 0xFFFFFFFF


def _sum_of_sites(output: ElfImage, bodies: Bodies) -> int:
    """The sum of the first two bytes of each site."""
    firsts = (output.read(body.record.native_va, 2) for body in bodies.bodies)
    return sum(int.from_bytes(first, "little") for first in firsts) & 0xFFFFFFFF


def _compare(found: bytes, should: bytes, va: int, report: Report) -> None:
    """Report the first byte that differs, and how many do."""
    if len(found) != len(should):
        message = f"{len(found)} bytes from the runtime on, {len(should)} belong there"
        report.add(RUNTIME, va, message)
        return
    differs = np.frombuffer(found, np.uint8) != np.frombuffer(should, np.uint8)
    if differs.any():
        at = int(np.flatnonzero(differs)[0])
        message = f"{found[at]:02x} instead of {should[at]:02x}; {int(differs.sum())} bytes differ"
        report.add(RUNTIME, va + at, message)
