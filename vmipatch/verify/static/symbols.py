# SPDX-License-Identifier: MIT
"""Does every symbol name what it named?"""

from __future__ import annotations

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.physical import virtual_distances
from vmipatch.image.symbols import SHN_ABS, STT_OBJECT, STT_SECTION
from vmipatch.verify.static.comparison import Comparison, Inputs, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import (
    NEW_SYMBOL,
    SYMBOL_IDENTITY,
    SYMBOL_SIZE,
    SYMBOL_VALUE,
)
from vmipatch.verify.static.side import I64, Flags

NEW_BOUNDS = {
    ".vmi.text": "__vmi_text",
    ".vmi.trampolines": "__vmi_trampolines",
    ".vmi.annotation": "__vmi_annotation",
    ".vmi.annotation.init": "__vmi_annotation_init",
    ".vmi.thunks": "__vmi_thunk_calls",
    ".vmi.fallback": "__vmi_fallback",
    ".vmi.translation": "__vmi_translation",
}
"""The symbol at the start of each new section; with `_end` appended, the one at its end."""
NEW_START = "__vmi_start"
"""Where the callers of the hook arrive."""
NEW_SECTION_START = "__vmi_section_"
"""With its index: the start of a section of a module that had no symbol of its own."""
_PAGE, _LARGEST_STACK = 4096, 65536
"""Between them are the stacks of Linux, which used to find a task by the alignment of its stack."""
GLOBAL_NOTYPE = 0x10
"""st_info of a global label (System V ABI, chapter 4)."""


@judges(NEW_SYMBOL)
def check_new_symbols(comparison: Comparison) -> None:
    """The rewriter's own symbols: the bounds of its sections, and the start of the runtime."""
    original, output, report = comparison.original, comparison.output, comparison.report
    wanted: dict[str, tuple[int, int]] = {}
    is_module = is_linked_module(output)
    for section_name, name in NEW_BOUNDS.items():
        section = output.section_by_name.get(section_name)
        if section is not None:
            wanted[name] = section.va, section.index
            if not is_module:
                wanted[f"{name}_end"] = section.end_va, section.index
    code = output.section_by_name.get(".vmi.text")
    start_va = comparison.runtime_va
    if start_va is not None and code is not None:
        wanted[NEW_START] = start_va, code.index
    for i in range(len(original.symbols), len(output.symbols)):
        symbol, info = output.symbols[i], int(output.symbols.entries["info"][i])
        should = wanted.pop(symbol.name, None)
        if is_module and symbol.name == f"{NEW_SECTION_START}{symbol.section}":
            should = output.sections[symbol.section].va, symbol.section
        if should is None:
            message = f"{symbol.name} is not a symbol of the rewriter, or a second one"
            report.add(NEW_SYMBOL, symbol.va, message)
        elif (symbol.va, symbol.section) != should or symbol.size or info != GLOBAL_NOTYPE:
            message = f"{symbol.name} is at {symbol.va:#x}, should be a label at {should[0]:#x}"
            report.add(NEW_SYMBOL, symbol.va, message)
    for name, (va, _) in wanted.items():
        report.add(NEW_SYMBOL, va, f"there is no {name}", name)


@judges(SYMBOL_IDENTITY)
def check_identity(inputs: Inputs) -> None:
    """Names, bindings and visibilities, by number."""
    was, now, report = inputs.original.symbols, inputs.output.symbols, inputs.report
    if len(now) < len(was):
        report.add(SYMBOL_IDENTITY, 0, f"{len(now)} symbols, were {len(was)}", ".symtab")
        return
    head = now.entries[: len(was)]
    for column in ("info", "other"):
        for i in np.flatnonzero(was.entries[column] != head[column]).tolist():
            message = f"symbol {i} ({was[i].name}) changed its {column}"
            report.add(SYMBOL_IDENTITY, int(head["value"][i]), message)
    same_strings = now.strings.startswith(was.strings[:-1])
    suspects = (
        np.flatnonzero(was.entries["name"] != head["name"]) if same_strings else range(len(was))
    )
    for i in (int(i) for i in suspects):
        if was[i].name != now[i].name:
            message = f"symbol {i} was {was[i].name} and is {now[i].name}"
            report.add(SYMBOL_IDENTITY, int(head["value"][i]), message)
    report.counts["symbols"] += len(was)


@judges(SYMBOL_VALUE, SYMBOL_IDENTITY)
def check_values(comparison: Comparison) -> None:
    """Every value is an image, and the section is the one that holds it."""
    original, output, report = comparison.original, comparison.output, comparison.report
    images = comparison.images
    was = original.symbols.entries
    now = output.symbols.entries[: len(was)]
    distance = virtual_distances(original)
    value = was["value"].astype(np.int64) + distance
    new = now["value"].astype(np.int64) + distance
    shndx, new_shndx = was["shndx"].astype(np.int64), now["shndx"].astype(np.int64)
    ordinary = (shndx > 0) & (shndx < len(original.sections))
    linked = np.array([s.va != 0 for s in original.sections])
    ordinary &= linked[np.where(ordinary, shndx, 0)]
    by_section = was["info"] & 15 == STT_SECTION
    executable = ordinary & np.isin(shndx, [s.index for s in original.executable_sections])
    start = np.array([s.va for s in output.sections], np.int64)
    of_section = np.where(executable & by_section, start[np.where(executable, shndx, 0)], value)
    should = np.where(ordinary, images.as_data(value), value)
    # An address that the linker called absolute, for want of a section; checksums are none.
    loads = list(original.loads)
    low, high = min(s.va for s in loads), max(s.va + s.mem_len for s in loads)
    address = (shndx == SHN_ABS) & (low <= value) & (value <= high) & ~original.symbols.is_number
    should = np.where(address, images(value), should)
    should = np.where(executable, np.where(by_section, of_section, images(value)), should)
    wrong = (new != should) & ~_may_differ(original, output, value, new, shndx)
    for i in np.flatnonzero(wrong).tolist():
        name = original.symbols[i].name or original.sections[int(shndx[i])].name
        message = f"{name} is at {new[i]:#x}, should be at {should[i]:#x}"
        report.add(SYMBOL_VALUE, int(new[i]), message)
    size = was["size"].astype(np.int64)
    stacks = (was["info"] & 15 == STT_OBJECT) & (size > _PAGE) & (size <= _LARGEST_STACK)
    stacks &= (size & (size - 1) == 0) & (value & (size - 1) == 0) & (new & (size - 1) != 0)
    for i in np.flatnonzero(ordinary & stacks).tolist():
        message = f"{original.symbols[i].name} was aligned to its {size[i]} bytes, and is not now"
        report.add(SYMBOL_VALUE, int(new[i]), message)
    for i in np.flatnonzero(shndx != new_shndx).tolist():
        section = output.section_at(int(new[i]))
        if not executable[i] or section is None or section.index != new_shndx[i]:
            message = f"{original.symbols[i].name} is said to be in section {new_shndx[i]}"
            report.add(SYMBOL_IDENTITY, int(new[i]), message)


def _may_differ(original: ElfImage, output: ElfImage, value: I64, new: I64, shndx: I64) -> Flags:
    """Labels at the start of a section whose code moved away: they mark a place and no code."""
    result = np.zeros(len(value), np.bool_)
    for section in original.executable_sections:
        now = output.sections[section.index]
        result |= (shndx == section.index) & (value == section.va) & (new == now.va)
    return result


@judges(SYMBOL_SIZE)
def check_sizes(comparison: Comparison) -> None:
    """Functions reach to the images of their ends; all else keeps its size."""
    original, output, report = comparison.original, comparison.output, comparison.report
    was = original.symbols.entries
    now = output.symbols.entries[: len(was)]
    size, new_size = was["size"].astype(np.int64), now["size"].astype(np.int64)
    distance = virtual_distances(original)
    value = was["value"].astype(np.int64) + distance
    shndx = was["shndx"]
    executable = np.isin(shndx, [s.index for s in original.executable_sections]) & (size > 0)
    for i in np.flatnonzero((size != new_size) & ~executable).tolist():
        message = f"{original.symbols[i].name} has {new_size[i]} bytes, had {size[i]}"
        report.add(SYMBOL_SIZE, int(now["value"][i]), message)
    which = np.flatnonzero(executable)
    end = value[which] + size[which]
    new_end = (now["value"] + distance)[which] + new_size[which]
    low, high = _end_range(comparison, end)
    wrong = (low != NOWHERE) & ((new_end < low) | (new_end > high))
    for i, least in zip(which[wrong].tolist(), low[wrong].tolist(), strict=True):
        new_va = int(now["value"][i])
        message = (
            f"{original.symbols[i].name} has {new_size[i]} bytes, should have {least - new_va}"
        )
        report.add(SYMBOL_SIZE, new_va, message)


def _end_range(comparison: Comparison, end: I64) -> tuple[I64, I64]:
    """Between which addresses of the output each range that ended at `end` may end.

    From the end of its last instruction to that of the padding which belongs to it; anywhere in
    filler that changed its length.
    """
    left, right, images = comparison.left, comparison.right, comparison.images
    last = np.maximum(left.over(end - 1), 0)
    p = comparison.paired.new_of[last]
    filler = images(left.starts[last])
    filler_end = np.where(filler == NOWHERE, NOWHERE, filler + left.lens[last])
    low = np.where(p == NOWHERE, filler_end, right.ends[p])
    high = np.where(p == NOWHERE, filler_end, comparison.bodies.ends(p))
    gaps = sorted((g.o_va, g.o_end, g.p_va, g.p_end) for g in comparison.fillers.gaps)
    if gaps:
        o_va, o_end, p_va, p_end = (np.array(c, np.int64) for c in zip(*gaps, strict=True))
        at = np.maximum(np.searchsorted(o_va, end - 1, side="right") - 1, 0)
        inside = (o_va[at] <= end - 1) & (end <= o_end[at])
        low, high = np.where(inside, p_va[at], low), np.where(inside, p_end[at], high)
    return low, high
