# SPDX-License-Identifier: MIT
"""Which symbols of the original name an operand inside of an instruction?

Such a label keeps its place in the instruction (VP006). It is one only if the second decoder, from
the symbol before it up to the symbol after it, has an instruction there whose operand begins at the
label: a relocated word, or the displacement of a near branch to a place in the same section.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_NOTYPE
from vmipatch.image.types import Section
from vmipatch.isa.second import decode_second
from vmipatch.verify.static.side import I64

WORD_LEN = 4


def inner_labels(original: ElfImage, relocated_va: I64) -> I64:
    """The addresses of all labels inside of instructions, ascending."""
    found = [
        _in_section(original, section, relocated_va) for section in original.executable_sections
    ]
    return distinct(np.concatenate([np.zeros(0, np.int64), *found]))


def _in_section(image: ElfImage, section: Section, relocated_va: I64) -> I64:
    code, entries = image.section_bytes(section), image.symbols.entries
    mine = entries[entries["shndx"] == section.index]
    label = (mine["info"] & 15 == STT_NOTYPE) & (mine["size"] == 0)
    value = mine["value"].astype(np.int64)
    inside = (value > section.va) & (value <= section.end_va - WORD_LEN)
    candidates = distinct(value[label & inside])
    candidates = candidates[~among(candidates, distinct(value[~label]))]
    octets = np.frombuffer(code, np.uint8)
    before = octets[candidates - section.va - 1]
    offered = among(candidates, relocated_va) | (before & 0xFE == 0xE8) | (before & 0xF0 == 0x80)
    candidates = candidates[offered]
    edges = np.append(distinct(value[(value >= section.va) & inside]), section.end_va)
    edges = np.insert(edges[~among(edges, candidates)], 0, section.va)
    confirmed = [
        va for va in candidates.tolist() if _is_inner(code, section, va, edges, relocated_va)
    ]
    return np.array(confirmed, np.int64)


def _is_inner(code: bytes, section: Section, va: int, edges: I64, relocated_va: I64) -> bool:
    at = int(np.searchsorted(edges, va))
    low, high = int(edges[at - 1]), int(edges[at])
    decoded = decode_second(code[low - section.va : high - section.va], low)
    index = int(np.searchsorted(decoded.starts, va, side="right")) - 1
    start, length = int(decoded.starts[index]), int(decoded.lens[index])
    end = start + length
    if not start < va <= end - WORD_LEN:
        return False
    if among(np.array([va], np.int64), relocated_va)[0]:
        return True
    off = va - section.va
    reach = int.from_bytes(code[off : off + WORD_LEN], "little", signed=True)
    leads_here = section.va <= va + WORD_LEN + reach < section.end_va
    return int(decoded.widths[index]) == WORD_LEN and end == va + WORD_LEN and leads_here
