# SPDX-License-Identifier: MIT
"""How runtime and thunks become part of a kernel."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields, replace

import numpy as np

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import mapped_range, records_in_room
from vmipatch.image.relocations import RAW_REL
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.annotate import AnnotationSegment
from vmipatch.rewrite.references import Words
from vmipatch.rewrite.thunks import Thunks
from vmipatch.runtime import Runtime, RuntimeFacts, build_runtime
from vmipatch.scan.code import CodeMap
from vmipatch.scan.hook import LOADER, branches_to
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.log_levels import has_old_levels, logger_of
from vmipatch.tables.paravirt_calls import call_keeper
from vmipatch.vmi.record import unpack_records

ALIGN = 16
INT3 = b"\xcc"


@dataclass(frozen=True, slots=True)
class Added:
    """The code in the room after .text."""

    va: int
    code: bytes = field(repr=False)
    """As long as the room."""
    relocations: bytes = field(repr=False)
    """Elf32_Rel entries of the code."""
    runtime: Runtime | None
    """None if the kernel has no hook, and then nothing applies the annotations; of modules."""
    redirect: dict[int, int] = field(hash=False)
    """Original address to new address of functions whose callers are to arrive elsewhere."""
    branches: dict[int, int] = field(hash=False)
    """Original address to new target of each branch that is redirected."""
    words: dict[int, int] = field(hash=False)
    """Original address to new value of each word that is redirected."""
    start: str
    """The hook's name."""


def attach(
    code_map: CodeMap,
    new: AddressMap,
    room: tuple[int, int],
    thunks: Thunks,
    annotations: AnnotationSegment,
    words: Words,
) -> Added:
    """Fill the room [start, end) with thunks, runtime and int3.

    `words` are the relocated words of the kernel: thunks repeat some of them.

    Raises InputNotUnderstood if they do not fit.
    """
    start_va, end_va = room
    runtime_va = -(-(thunks.va + len(thunks.code)) // ALIGN) * ALIGN
    code = _with_words(code_map, new, thunks, words).ljust(runtime_va - thunks.va, INT3)
    hook = code_map.hook
    runtime, redirect = None, {}
    branches: dict[int, int] = {}
    redirected_words: dict[int, int] = {}
    if hook is not None:
        facts = _facts(code_map, new, room, annotations, new.one(hook.va))
        behind_va = runtime_va + len(build_runtime(facts, runtime_va).code)
        copy_va = -(-behind_va // ALIGN) * ALIGN
        facts = replace(facts, copy=copy_va, copy_len=max(end_va - copy_va, 0))
        runtime = build_runtime(facts, runtime_va)
        code += runtime.code
        redirect = {hook.va: runtime.entry}
        branches = dict.fromkeys(hook.branches, runtime.entry)
        redirected_words = dict.fromkeys(hook.words, runtime.entry)
        loader = code_map.image.symbols.address(LOADER)
        if loader is not None:
            redirect[loader] = runtime.module_entry
            branches |= dict.fromkeys(branches_to(code_map, loader), runtime.module_entry)
    if len(code) > end_va - start_va:
        raise InputNotUnderstood(
            f"thunks and runtime need {len(code)} bytes, {end_va - start_va} were reserved",
            file=code_map.image.name,
            hint="report this kernel: it has more forms of sites than any known one",
        )
    return Added(
        start_va,
        code.ljust(end_va - start_va, INT3),
        _relocations(code_map, thunks),
        runtime,
        redirect,
        branches,
        redirected_words,
        code_map.start,
    )


def attach_thunks(code_map: CodeMap, new: AddressMap, thunks: Thunks, words: Words) -> Added:
    """Thunks alone, as long as they are: what a module needs."""
    code = _with_words(code_map, new, thunks, words)
    made = _relocations(code_map, thunks)
    return Added(thunks.va, code, made, None, {}, {}, {}, code_map.start)


def runtime_len(code_map: CodeMap) -> int:
    """Bytes of the runtime of a kernel, wherever it goes: words and near jumps have one length."""
    start_va = next(iter(code_map.image.loads)).va
    symbols = code_map.image.symbols
    entry_va = start_va if any(entry_text(symbols)) else 0
    known = {
        "page_offset": code_map.page_offset,
        "printk": 0 if logger_of(code_map.image) is None else start_va,
        "old_levels": int(has_old_levels(code_map.image)),
        "module_finalize": 0 if symbols.address(LOADER) is None else start_va,
        "entry_text": entry_va,
        "entry_text_end": entry_va,
        "keep_calls": start_va if call_keeper(symbols, code_map.tables) else 0,
        "keep_value": 0,
        "image_pa": 0,
        "image_end_pa": start_va if records_in_room(code_map.start) else 0,
    }
    facts = {field.name: known.get(field.name, start_va) for field in fields(RuntimeFacts)}
    return len(build_runtime(RuntimeFacts(**facts), start_va + FAR_LEN).code)


FAR_LEN = 0x10000
"""A distance that no short jump spans."""


def _with_words(code_map: CodeMap, new: AddressMap, thunks: Thunks, words: Words) -> bytes:
    """The code of the thunks, absolute words holding what those of their sites hold."""
    code = bytearray(thunks.code)
    for at_va, site_word_va in thunks.words:
        moved = np.flatnonzero(words.va == new.one(site_word_va))
        if len(moved):
            struct.pack_into("<I", code, at_va - thunks.va, int(words.value[moved[0]]))
    return bytes(code)


def _relocations(code_map: CodeMap, thunks: Thunks) -> bytes:
    """Elf32_Rel entries of the thunks: those of the words that they repeat."""
    entries = code_map.relocations.entries
    rows = []
    for at_va, site_word_va in thunks.words:
        for entry in entries[entries["va"] == site_word_va]:
            rows.append((at_va, int(entry["symbol"]) << 8 | int(entry["kind"])))
    return np.array(rows, dtype=RAW_REL).tobytes()


def _facts(
    code_map: CodeMap,
    new: AddressMap,
    room: tuple[int, int],
    annotations: AnnotationSegment,
    start_kernel: int,
) -> RuntimeFacts:
    symbols = code_map.image.symbols
    logger = logger_of(code_map.image)
    loader = symbols.address(LOADER)
    entry_va, entry_end_va = entry_text(symbols)
    keeper = call_keeper(symbols, code_map.tables)
    image_pa, image_end_pa = _physical_range(code_map, new)
    return RuntimeFacts(
        page_offset=code_map.page_offset,
        start_kernel=start_kernel,
        printk=0 if logger is None else new.one(logger),
        old_levels=int(has_old_levels(code_map.image)),
        module_finalize=0 if loader is None else new.one(loader),
        annotation=annotations.records.va,
        annotation_end=annotations.init_records.end_va,
        thunk_calls=annotations.thunk_calls.va,
        thunk_calls_end=annotations.thunk_calls.end_va,
        fallback=annotations.fallback.va,
        fallback_end=annotations.fallback.end_va,
        sum_start=annotations.parts[0].va,
        sum_end=annotations.parts[-1].end_va,
        copy=room[1],
        copy_len=0x7FFFFFFF,
        text=room[0],
        text_end=room[1],
        entry_text=new.one(entry_va),
        entry_text_end=new.one(entry_end_va),
        keep_calls=new.one(keeper.va) if keeper else 0,
        keep_value=keeper.value if keeper else 0,
        image_pa=image_pa,
        image_end_pa=image_end_pa,
    )


def _physical_range(code_map: CodeMap, new: AddressMap) -> tuple[int, int]:
    """Where the new image is in physical memory, if the runtime has to look at page tables."""
    if not records_in_room(code_map.start):
        return 0, 0
    start_va, end_va = mapped_range(code_map.image)
    offset = code_map.page_offset
    return start_va - offset, new.one(end_va) - offset


def seal(data: bytes, runtime: Runtime | None, annotations: AnnotationSegment) -> bytes:
    """Write the sums that the runtime checks into the finished file."""
    if runtime is None:
        return data
    image = ElfImage.parse(data)
    segment = b"".join(part.data for part in annotations.parts)
    segment_sum = int(np.frombuffer(segment, dtype="<u4").sum(dtype=np.uint64))
    records = annotations.records.data + annotations.init_records.data
    native_sum = sum(
        int.from_bytes(image.read(record.native_va, 2), "little")
        for record in unpack_records(records)
    )
    result = bytearray(data)
    for va, value in ((runtime.segment_sum_va, segment_sum), (runtime.native_sum_va, native_sum)):
        struct.pack_into("<I", result, image.offset_of(va), value & 0xFFFFFFFF)
    return bytes(result)
