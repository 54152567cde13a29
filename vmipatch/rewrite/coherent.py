# SPDX-License-Identifier: MIT
"""Does everything lead where an instruction or the image is? If not, the file is damaged.

A reference that leads elsewhere cannot be led along, and what control flow makes of it is a guess.
"""

from __future__ import annotations

import numpy as np

from vmipatch.errors import MalformedImage, NotSupported, UnclassifiedReference
from vmipatch.image.consistency import DAMAGED
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, WORD_LEN
from vmipatch.image.symbols import SHN_ABS, SHN_UNDEF
from vmipatch.isa.decode import Flow, Shape
from vmipatch.limits import Limit
from vmipatch.rewrite.references import image_range
from vmipatch.scan.code import CodeMap
from vmipatch.scan.ledger import ByteClass
from vmipatch.scan.scan import ScanResult, laid_out
from vmipatch.tables.table import Role

AROUND_LEN = 1 << 24
"""How far from the image a word may point: head code maps some MiB after the end (measured: 4),
and compilers subtract the least index of an array from its address."""
NULL_LEN = 0x1000
"""Undefined weak symbols are 0, and what they name lies in the first page."""
HOLDS_DATA = "code may hold data that no symbol names: report such a kernel"
SPOILT = Limit.REFERENCE.remedy


def require_decoded(code_map: CodeMap) -> None:
    """Raise InputNotUnderstood if code that is to move has bytes that are no instruction."""
    movable = laid_out(code_map.image)
    for section, stream in code_map:
        if section.name in movable and len(stream.undecodable):
            va = int(stream.starts[stream.undecodable[0]])
            raise NotSupported(
                Limit.DATA_AMONG_CODE,
                "there are bytes in the code that are not an instruction",
                file=code_map.image.name,
                place=f"{va:#x} ({code_map.image.symbols.place_of(va)})",
            )


def require_accounted(found: ScanResult) -> None:
    """Raise UnclassifiedReference if it is unknown of some bytes whether they are code.

    Of an image with all its references nearly always something else leads there: control flow that
    is followed ends in the middle of an instruction.
    """
    message = "a branch, symbol or table leads into the middle of what is decoded here"
    for account in found.ledger.sections:
        for va in account.edges[account.classes == ByteClass.UNKNOWN][:1].tolist():
            raise _astray(found.image, va, message)


def require_branches_inside(found: ScanResult) -> None:
    """Raise UnclassifiedReference if a branch of proven code leads out of the kernel.

    An undefined weak symbol is 0, and a call of it never made.
    """
    low, high = image_range(found.image)
    for account, (_, stream) in zip(found.ledger.sections, found.code_map, strict=True):
        target = found.code_map.linked_targets(stream)
        astray = (target >= NULL_LEN) & ((target < low) | (target >= high))
        places = stream.starts[stream.branches[astray]].astype(np.int64)
        proven = account.class_at(places) == ByteClass.CODE
        for va in places[proven][:1].tolist():
            raise _astray(found.image, va, "this branch leads out of the kernel", SPOILT)


def require_wide_branches(found: ScanResult) -> None:
    """Raise UnclassifiedReference if a branch of proven code has 16 bits.

    It leads below 64 KiB from wherever it stands, where no kernel has code.
    """
    message = "this branch has 16 bits, and leads out of the kernel"
    for account, (_, stream) in zip(found.ledger.sections, found.code_map, strict=True):
        places = stream.starts[stream.flows == Flow.NARROW].astype(np.int64)
        proven = account.class_at(places) == ByteClass.CODE
        for va in places[proven][:1].tolist():
            raise _astray(found.image, va, message)


def require_branches_lead_to_instructions(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if a branch leads into the middle of an instruction.

    It may never be executed, as after a damaged instruction; it has no target all the
    same.
    """
    message = "this branch leads into the middle of an instruction"
    for _, stream in code_map:
        astray = _inside(code_map, code_map.linked_targets(stream))
        for va in stream.starts[stream.branches[astray]][:1].tolist():
            raise _astray(code_map.image, va, message)


def require_led_to_instructions(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if something leads into the middle of an instruction."""
    targets = code_map.targets
    targets = targets[~np.isin(targets, code_map.inner_labels)]
    for va in targets[_inside(code_map, targets)][:1].tolist():
        raise _astray(code_map.image, va, "something leads into the middle of this instruction")


def require_tables_lead_to_instructions(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if a table leads into the middle of an instruction.

    Of a kernel that came alone, too: what else is doubtful there, the kernel's own tables are not.
    """
    for table in code_map.tables:
        words = table.code_words
        astray = _inside(code_map, words["target_va"].astype(np.int64))
        for va in words["va"][astray][:1].tolist():
            message = f"an entry of {table.name.value} leads into the middle of an instruction"
            raise _astray(code_map.image, va, message, SPOILT)


def require_tables_name_operands(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if a table names an operand that does not end an instruction.

    The kernel overwrites it, wherever the instruction is.
    """
    for table in code_map.tables:
        places = table.places_of(Role.OPERAND)
        for va, length in zip(places["va"].tolist(), places["len"].tolist(), strict=True):
            stream = code_map.stream_at(va)
            index = -1 if stream is None else stream.index_over(va)
            whole = (
                stream is not None
                and stream.starts[index] < va
                and stream.starts[index] + stream.lens[index] == va + length
                and stream.shapes[index] == Shape.CODE
            )
            if not whole:
                message = f"an entry of {table.name.value} names no operand of this instruction"
                raise _astray(code_map.image, va, message)


def require_words_lead_to_image(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if a relocated word holds no address of the kernel.

    Linked or physical, or what code adds to its own physical address to get a linked one; absolute
    symbols are numbers that may be any. A relocation whose place or symbol is damaged is nearly
    always one of these.
    """
    image, rows = code_map.image, code_map.relocations.entries
    low, high = image_range(image)
    relative = rows["kind"] != R_386_32
    value = rows["value"].astype(np.int64)
    target = (value + np.where(relative, rows["va"].astype(np.int64), 0)) & 0xFFFFFFFF
    number = np.isin(image.symbols.entries["shndx"][rows["symbol"]], (SHN_ABS, SHN_UNDEF))
    good = number | (target < NULL_LEN)
    for base in (0, code_map.page_offset, -code_map.page_offset):
        near = (target + base) & 0xFFFFFFFF
        good |= (near >= low - AROUND_LEN) & (near <= high + AROUND_LEN)
    for va, held in zip(rows["va"][~good].tolist(), value[~good].tolist(), strict=True):
        message = f"the relocated word {held:#x} is not an address of the kernel"
        raise _astray(image, va, message, SPOILT)


def require_operands(code_map: CodeMap) -> None:
    """Raise UnclassifiedReference if a relocated word in code is not an operand.

    It lies after the first byte of an instruction that is not filler, and a relative one is what a
    branch ends with. Bytes that are no instruction are somebody else's affair.
    """
    message = "a relocated word is not an operand of the instruction that is decoded here"
    entries = code_map.relocations.entries
    for section, stream in code_map:
        mine = entries[entries["section"] == section.index]
        va, starts = mine["va"].astype(np.int64), stream.starts.astype(np.int64)
        at = np.searchsorted(starts, va, side="right") - 1
        is_branch = np.zeros(len(stream), np.bool_)
        is_branch[stream.branches] = True
        following = starts[at] + stream.lens[at] - (va + WORD_LEN)
        inside = (starts[at] < va) & (following >= 0) & (stream.shapes[at] == Shape.CODE)
        inside &= (mine["kind"] == R_386_32) | (is_branch[at] & (following == 0))
        is_decoded = (stream.codes[at] != 0) & ~np.isin(at, stream.opaque)
        for place in va[~inside & is_decoded][:1].tolist():
            raise _astray(code_map.image, place, message)


def require_whole_functions(code_map: CodeMap) -> None:
    """Raise MalformedImage if what has a size ends inside of an instruction, or beyond its section.

    Its new end would be unknown.
    """
    image = code_map.image
    entries = image.symbols.entries
    end = entries["value"].astype(np.int64) + entries["size"]
    for section, stream in code_map:
        sized = (entries["shndx"] == section.index) & (entries["size"] > 0)
        which = np.flatnonzero(sized & (end > section.va) & (end < section.end_va))
        over = np.searchsorted(stream.starts.astype(np.int64), end[which], side="right") - 1
        inside = (stream.starts[over] != end[which]) & (stream.shapes[over] == Shape.CODE)
        for wrong, where in (
            (which[inside], "inside of an instruction"),
            (np.flatnonzero(sized & (end > section.end_va)), f"beyond {section.name}"),
        ):
            for index in wrong[:1].tolist():
                raise MalformedImage(
                    f"symbol {image.symbols[index].name or index} ends {where}",
                    file=image.name,
                    place=f"{int(end[index]):#x}",
                    hint=DAMAGED,
                )


def _inside(code_map: CodeMap, vas: np.ndarray) -> np.ndarray:
    """Which addresses (i64 array) lie in the middle of an instruction (bool array)."""
    result = np.zeros(len(vas), np.bool_)
    for _, stream in code_map:
        known = stream.starts.astype(np.int64)
        at = np.minimum(np.searchsorted(known, vas), len(known) - 1)
        result |= (vas >= stream.va) & (vas < stream.end_va) & (known[at] != vas)
    return result


def _astray(
    image: ElfImage, va: int, message: str, hint: str = HOLDS_DATA
) -> UnclassifiedReference:
    """The error that names the address, its symbol and its section."""
    section = image.section_at(va)
    offset = f", {section.name}+{va - section.va:#x}" if section else ""
    place = f"{va:#x} ({image.symbols.place_of(va)}{offset})"
    return UnclassifiedReference(message, file=image.name, place=place, hint=hint)
