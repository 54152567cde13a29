# SPDX-License-Identifier: MIT
"""Which code computes addresses of code from its own, at distances that no relocation records?

    call 1f
    1: pop ebx
    sub ebx, 1b - start      # or: lea eax, [ebx + table - 1b]

The assembler folds the distance into a constant. What lies between the label and the address that
the constant names has to keep its length. A constant is seen if it stands in the function of the
call, next to the register that was popped; what goes through other registers or memory is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.isa.own_address import constants_next_to
from vmipatch.scan.code import CodeMap

POPS = range(0x58, 0x60)
READS_RETURN_ADDRESS = re.compile(rb"\x8b([\x04\x0c\x14\x1c\x2c\x34\x3c])\x24\xc3")
"""mov r, [esp]; ret: the function that compilers call for it (__x86.get_pc_thunk.bx)."""


def folded_ranges(code_map: CodeMap) -> list[tuple[int, int, int]]:
    """Each such label, and [start, end) that holds it and the addresses computed from it."""
    words = set(code_map.relocations.entries["va"].tolist())
    readers = dict(_readers(code_map))
    result = []
    for _, stream in code_map:
        for label_va, register in _labels(stream, readers):
            end_va = _next_function(code_map.image, stream, label_va)
            code = bytes(stream.code[label_va - stream.va : end_va - stream.va])
            every = constants_next_to(register, code, label_va, words)
            named = [va for va in every if stream.va <= va < stream.end_va]
            if named:
                result.append((label_va, min(label_va - 1, *named), max(label_va, *named) + 1))
    return result


def _readers(code_map: CodeMap) -> Iterator[tuple[int, int]]:
    """Addresses at which code reads its return address and returns, and the register it gives."""
    for _, stream in code_map:
        for found in READS_RETURN_ADDRESS.finditer(stream.code):
            yield stream.va + found.start(), found[1][0] >> 3


def _labels(stream: InstructionStream, readers: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The address that each such call pushes, and the register that gets it."""
    is_call = stream.flows[stream.branches] == Flow.CALL
    calls, targets = stream.branches[is_call], stream.branch_targets[is_call].astype(np.int64)
    after = stream.starts[calls].astype(np.int64) + stream.lens[calls]
    next_ones = targets == after
    for index in calls[next_ones].tolist():
        opcode = stream.bytes_at(index + 1) if index + 1 < len(stream) else b""
        if len(opcode) == 1 and opcode[0] in POPS:
            yield int(stream.starts[index + 1]), opcode[0] & 7
    read = among(targets, np.array(sorted(readers), np.int64)) & ~next_ones
    for label_va, target in zip(after[read].tolist(), targets[read].tolist(), strict=True):
        yield label_va, readers[target]


def _next_function(image: ElfImage, stream: InstructionStream, va: int) -> int:
    """The first function after `va`, or the end of the section."""
    entries = image.symbols.entries
    starts = entries["value"][(entries["info"] & 15) == STT_FUNC]
    after = starts[(starts > va) & (starts < stream.end_va)]
    return int(after.min(initial=stream.end_va))
