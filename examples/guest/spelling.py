# SPDX-License-Identifier: MIT
"""Which instructions the assembler cannot spell as 32-bit code, and the bytes we mean.

keystone 0.9.2 gives these a 16-bit operand size (`push cs` becomes 66 0E, `lgdt` loads a base
of 24 bits) or refuses them. Opcodes: Intel SDM volume 2, appendix A.
"""

from __future__ import annotations

import re

ONE_BYTE = {
    "push es": 0x06,
    "pop es": 0x07,
    "push cs": 0x0E,
    "push ss": 0x16,
    "pop ss": 0x17,
    "push ds": 0x1E,
    "pop ds": 0x1F,
    "movsd": 0xA5,
}
"""Instructions of one byte."""

TABLE_GROUP = {"sgdt": 0, "sidt": 1, "lgdt": 2, "lidt": 3}
"""/n of the group 0F 01, with an absolute address (mod 00, r/m 101) or one in a register."""
BASES = {"eax": 0, "ecx": 1, "edx": 2, "ebx": 3, "esi": 6, "edi": 7}

FAR = {"call_far": 0x9A, "jmp_far": 0xEA}
"""Direct far transfers: `jmp_far selector, address`."""

_LABEL = re.compile(r"^([\w.]+:)\s*(.*)$")
_TABLE = re.compile(r"^(sgdt|sidt|lgdt|lidt)\s+\[(.+)\]$")
_FAR_MEMORY = re.compile(r"^(call|jmp) fword ptr (\[.+\])$")
_FAR = re.compile(r"^(call_far|jmp_far)\s+(.+?),\s*(.+)$")
_PUSH_LABEL = re.compile(r"^push_label\s+(.+)$")


def respell(line: str) -> list[str]:
    """`line` as the assembler has to see it: one or more lines."""
    bare = line.split("#", 1)[0].strip()
    if label := _LABEL.match(bare):
        return [label[1], *(respell(label[2]) if label[2] else [])]
    statement = re.sub(r"\s+", " ", bare)
    prefix, body = ("0xf3, ", statement[4:]) if statement.startswith("rep ") else ("", statement)
    if body in ONE_BYTE:
        return [f".byte {prefix}{ONE_BYTE[body]:#x}"]
    if table := _TABLE.match(statement):
        group = TABLE_GROUP[table[1]] << 3
        if (base := BASES.get(table[2])) is not None:
            return [f".byte 0x0f, 0x01, {group | base:#x}"]
        return [f".byte 0x0f, 0x01, {group | 5:#x}", f".long {table[2]}"]
    if memory := _FAR_MEMORY.match(statement):
        return [f"l{memory[1]} {memory[2]}"]
    if far := _FAR.match(statement):
        return [f".byte {FAR[far[1]]:#x}", f".long {far[3]}", f".word {far[2]}"]
    if push := _PUSH_LABEL.match(statement):
        return [".byte 0x68", f".long {push[1]}"]
    return [bare] if bare else []
