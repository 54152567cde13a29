# SPDX-License-Identifier: MIT
"""Where is what in the boot code that Linux's build puts around a kernel?

    head | payload | tail: .text .rodata .data | .bss (not in the file)

It is linked at 0 and moves itself. What holds an address holds a distance from startup_32 or from
the global offset table (GOT), see `head` and `tail`.
Source: arch/x86/boot/compressed/vmlinux.lds.S and head_32.S of Linux 2.6.26 to 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmipatch.image.repack.head import MAX_TEXT_ALIGN, BootHead, Room, unclassified
from vmipatch.image.repack.tail import Tail
from vmipatch.image.setup_header import SetupHeader

PAGE = 4096


def pages(length: int) -> int:
    """`length`, up to the end of a page."""
    return -(-length // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class BootCode:
    """Boot code as linked: offsets from startup_32."""

    name: str
    """The file, for messages."""
    code: bytes = field(repr=False)
    """The protected-mode part, from startup_32 to _edata."""
    payload_off: int
    payload_len: int
    head: BootHead
    tail: Tail
    end_off: int
    """_end, the end of .bss and of its page."""

    @property
    def text_off(self) -> int:
        """The tail begins here."""
        return self.head.text_off

    @property
    def text_end_off(self) -> int:
        """The end of the tail's code."""
        return self.tail.text_end_off

    @property
    def edata_off(self) -> int:
        """The end of what the file holds."""
        return len(self.code)

    @property
    def payload_end_off(self) -> int:
        """The first byte after the payload."""
        return self.payload_off + self.payload_len

    def moved(self, off: int, distance: int) -> int:
        """The new offset of `off` when the tail moves by `distance`."""
        return off + distance if off >= self.text_off else off

    @classmethod
    def parse(cls, data: bytes, header: SetupHeader, name: str) -> BootCode:
        """Understand the boot code of the bzImage `data`.

        Raises UnclassifiedReference if it is built in another way.
        """
        code = data[header.code_off : header.code_off + header.syssize * 16]
        payload_end = header.payload_offset + header.payload_length
        head = BootHead.parse(code, header.payload_offset, payload_end, name)
        tail = Tail.parse(code, head, name)
        text_off = head.text_off
        if not 0 <= text_off - payload_end < MAX_TEXT_ALIGN or any(code[payload_end:text_off]):
            raise unclassified("what follows the payload is not its .text section", name, text_off)
        end_off = _end(head, tail)
        copied = tail.ebss_off if head.room is Room.LENGTHS else tail.bss_off
        parts = (text_off, tail.text_end_off, copied, tail.ebss_off, end_off)
        if head.copied_len != copied or list(parts) != sorted(parts):
            raise unclassified("its parts do not follow each other", name, text_off)
        return cls(name, code, header.payload_offset, header.payload_length, head, tail, end_off)


def _end(head: BootHead, tail: Tail) -> int:
    if head.room is Room.INIT_SIZE:
        return head.base_off + head.room_value
    return pages(tail.ebss_off)
