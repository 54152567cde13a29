# SPDX-License-Identifier: MIT
"""Is the runtime in the output the one that this version of vmipatch assembles for it?

The runtime is assembled once more, from facts that are read from the output (its sections) and
from the proof's own address map, and compared byte by byte, its two sums and the filler behind it
included.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.runtime import RuntimeFacts, build_runtime
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.log_levels import has_old_levels, logger_of
from vmipatch.tables.paravirt_calls import call_keeper
from vmipatch.tables.table import Tables
from vmipatch.verify.static.added import LOADER, NEW_CODE, START
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.images import Images
from vmipatch.verify.static.rules import REDIRECTED, RUNTIME
from vmipatch.verify.static.verdict import Report

PARTS = (
    ".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback", ".vmi.translation"
)  # fmt: skip
"""The sections of the annotation segment in address order: all are summed up."""
COPY_ALIGN = 16
INT3 = 0xCC
WORD = struct.Struct("<I")


def check_runtime(
    original: ElfImage,
    output: ElfImage,
    tables: Tables,
    redirect: dict[int, int],
    images: Images,
    bodies: Bodies,
    report: Report,
) -> int:
    """Compare the runtime with the one that should be there, and judge what lies behind it.

    Returns where the runtime begins: the end of the thunks (the end of the added code if the
    kernel has no start_kernel and therefore no runtime).
    """
    code = output.section_by_name.get(NEW_CODE)
    parts = [output.section_by_name.get(name) for name in PARTS]
    start_va = original.symbols.address(START)
    if code is None:
        report.add(RUNTIME, 0, "there is no added code", NEW_CODE)
        return 0
    if start_va is None:
        return code.end_va
    runtime_va = redirect.get(start_va)
    if runtime_va is None or runtime_va not in code:
        message = f"{START} has callers, and none of them is led to the runtime"
        report.add(REDIRECTED, code.va, message, NEW_CODE)
        return code.end_va
    whole = [part for part in parts if part is not None]
    if len(whole) < len(PARTS):
        report.add(RUNTIME, runtime_va, "sections that it walks are missing", NEW_CODE)
        return runtime_va
    facts = _facts(original, output, tables, code, whole, images)
    should = _expected(facts, runtime_va, code, output, whole, bodies)
    _compare(output.read(runtime_va, code.end_va - runtime_va), should, runtime_va, report)
    report.counts["runtime bytes"] += len(should)
    return runtime_va


def _facts(
    original: ElfImage,
    output: ElfImage,
    tables: Tables,
    code: Section,
    parts: list[Section],
    images: Images,
) -> RuntimeFacts:
    """What the runtime has to know; where the ROM may be copied to is not known yet."""
    records, init_records, thunk_calls, fallback, translations = parts
    logger = logger_of(original)
    loader = original.symbols.address(LOADER)
    keeper = call_keeper(original.symbols, tables)
    entry_va, entry_end_va = entry_text(output.symbols)  # symbols have a rule of their own
    return RuntimeFacts(
        page_offset=images.physical,
        start_kernel=images.one(original.symbols.by_name[START].va),
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
    )


def _expected(
    facts: RuntimeFacts,
    va: int,
    code: Section,
    output: ElfImage,
    parts: list[Section],
    bodies: Bodies,
) -> bytes:
    """The bytes that belong from `va` to the end of `code`: runtime with its sums, and int3."""
    behind_va = va + len(build_runtime(facts, va).code)
    copy_va = -(-behind_va // COPY_ALIGN) * COPY_ALIGN
    facts = replace(facts, copy=copy_va, copy_len=max(code.end_va - copy_va, 0))
    runtime = build_runtime(facts, va)
    result = bytearray(runtime.code)
    for at_va, value in (
        (runtime.segment_sum_va, _sum_of_words(b"".join(output.section_bytes(p) for p in parts))),
        (runtime.native_sum_va, _sum_of_sites(output, bodies)),
    ):
        WORD.pack_into(result, at_va - va, value)
    return bytes(result.ljust(code.end_va - va, bytes((INT3,))))


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
