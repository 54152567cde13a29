# SPDX-License-Identifier: MIT
"""Where is what in the boot code that Linux's build puts around a kernel?

    head | payload | tail: .text .rodata .data | .bss (not in the file)

Source: arch/x86/boot/compressed/vmlinux.lds.S and head_32.S of Linux 5.8 and later. It is linked
at 0, moves itself, and holds no address: only distances from a register to the global offset table
(GOT), which lies behind .bss.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vmipatch.errors import UnclassifiedReference
from vmipatch.image.setup_header import SetupHeader
from vmipatch.isa.decode import Flow, decode

MAX_TEXT_ALIGN = 64
CALL_LEN = 5
_GET_GOT = re.compile(rb"\xe8\0\0\0\0[\x58-\x5f]\x81[\xc0-\xc7](.{4})", re.DOTALL)
"""call 1f; 1: pop reg; add $GOT - 1b, reg."""
_GET_END = re.compile(rb"\x03\x9e\x60\x02\0\0\x81\xeb(.{4})", re.DOTALL)
"""add init_size(%esi), %ebx; sub $_end@GOTOFF, %ebx."""
_GET_BSS = re.compile(rb"\xb9(.{4})\xc1\xe9\x02\xfd\xf3\xa5", re.DOTALL)
"""mov $(_bss - startup_32), %ecx; shr $2, %ecx; std; rep movsl: the copy of itself."""
_TO_TAIL = re.compile(rb"\x8d([\x80-\x83\x85-\x87])(.{4})\xff[\xe0-\xe7]\Z", re.DOTALL)
"""lea .Lrelocated@GOTOFF(reg), reg; jmp *reg: the head ends so."""


@dataclass(frozen=True, slots=True)
class BootCode:
    """Boot code as linked: offsets from startup_32."""

    name: str
    """The file, for messages."""
    code: bytes = field(repr=False)
    """The protected-mode part, from startup_32 to _edata."""
    payload_off: int
    payload_len: int
    text_off: int
    """The tail begins here."""
    text_end_off: int
    """The end of the last function that direct branches lead to."""
    got_off: int
    bss_off: int
    """_bss: at the end of what the file holds, or in the padding there."""
    end_off: int
    """_end, the end of .bss and of its page."""
    end_word_off: int
    """The word of the head that tells it, as a distance from the GOT."""

    @property
    def edata_off(self) -> int:
        """The end of what the file holds."""
        return len(self.code)

    @property
    def payload_end_off(self) -> int:
        """The first byte behind the payload."""
        return self.payload_off + self.payload_len

    @classmethod
    def parse(cls, data: bytes, header: SetupHeader, name: str) -> BootCode:
        """Understand the boot code of the bzImage `data`.

        Raises UnclassifiedReference if it is built in another way.
        """
        code = data[header.code_off : header.code_off + header.syssize * 16]
        head = code[: header.payload_offset]
        got = _found(_GET_GOT, head, "to find the global offset table", name)
        end = _found(_GET_END, head, "to make room for the kernel", name)
        bss = _found(_GET_BSS, head, "to copy itself", name)
        out = _found(_TO_TAIL, head, "to lead behind the payload", name)
        got_off = got.start() + CALL_LEN + _signed(got[1])
        text_off = got_off + _signed(out[2])
        payload_end = header.payload_offset + header.payload_length
        gap = code[payload_end:text_off]
        if not 0 <= text_off - payload_end < MAX_TEXT_ALIGN or any(gap) or got_off < len(code):
            raise unclassified("what follows the payload is not its .text section", name, text_off)
        return cls(
            name,
            code,
            header.payload_offset,
            header.payload_length,
            text_off,
            _end_of_text(code, text_off, name),
            got_off,
            _signed(bss[1]),
            got_off + _signed(end[1]),
            end.start(1),
        )


def unclassified(message: str, name: str, off: int) -> UnclassifiedReference:
    """The error for boot code that is not understood."""
    return UnclassifiedReference(message, file=name, place=f"boot code + {off:#x}")


def _found(pattern: re.Pattern[bytes], head: bytes, purpose: str, name: str) -> re.Match[bytes]:
    found = list(pattern.finditer(head))
    if len(found) != 1:
        raise unclassified(f"the boot code has {len(found)} instructions {purpose}", name, 0)
    return found[0]


def _signed(word: bytes) -> int:
    return int.from_bytes(word, "little", signed=True)


def _end_of_text(code: bytes, text_off: int, name: str) -> int:
    """The end of the first function behind which no earlier branch leads.

    The functions that fetch the program counter stand last, and C code calls them directly.
    """
    stream = decode(code[text_off:], text_off)
    flows, starts, lens = stream.flows.tolist(), stream.starts.tolist(), stream.lens.tolist()
    targets = dict(zip(stream.branches.tolist(), stream.branch_targets.tolist(), strict=True))
    bad = int(stream.undecodable[0]) if len(stream.undecodable) else len(stream)
    furthest = text_off
    for index in range(bad):
        target = targets.get(index, 0)
        if target <= starts[bad - 1]:
            furthest = max(furthest, target)
        if flows[index] in (Flow.STOP, Flow.JUMP) and starts[index] >= furthest:
            return int(starts[index] + lens[index])
    raise unclassified("the end of the .text section was not found", name, text_off)
