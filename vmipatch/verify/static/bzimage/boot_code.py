# SPDX-License-Identifier: MIT
"""How is the boot code of a bzImage built? As the proof reads it, instruction by instruction.

    head | payload | tail: .text, .rodata, .data | .bss (not in the file)

The head finds out where it runs (`call`, `pop`, and the distance from there to what its registers
point to), computes a place, copies everything there and jumps to the tail of the copy. All offsets
count from startup_32, which is linked at 0.
Source: arch/x86/boot/compressed/{head_32.S,vmlinux.lds.S} of Linux 2.6.26 to 7.2.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from vmipatch.isa.second_listing import Line, Wide, listing

_Found = TypeVar("_Found")
WORD_LEN = 4
PAGE = 4096
_MOST_GAP = 64
"""The tail is aligned to less."""
_FIRST_FUNCTION = 256
"""No function of assembly in the tail is longer."""
_FAR_FROM_FETCH = 64
_INIT_SIZE = "[esi + 0x260]"
_ROUNDS = ("and", "ebx, eax")
"""Up to 3.12 relocatable code does not look whether it lies too low."""
_CLEARS = ("xor eax, eax", "lea edi", "lea ecx", "sub ecx, edi")
_THUNK = re.compile(r"e(ax|cx|dx|bx|bp|si|di), dword ptr \[esp\]")


class UnknownBootCode(Exception):
    """Boot code that is not built as the proof knows it: what, and where."""

    def __init__(self, message: str, off: int) -> None:
        super().__init__(f"{message} (boot code + {off:#x})")


class Room(enum.Enum):
    """How the head computes the place of the copy."""

    INIT_SIZE = enum.auto()  # so that its _end is the end of init_size
    DISTANCE = enum.auto()  # a constant after the start of the kernel
    LENGTHS = enum.auto()  # from a word before the payload, and the payload's last


@dataclass(frozen=True, slots=True)
class BootCode:
    """Boot code and its parts."""

    code: bytes = field(repr=False)
    payload: tuple[int, int]
    """Offset and end."""
    head: tuple[Line, ...] = field(repr=False)
    tail: tuple[Line, ...] = field(repr=False)
    """From its first instruction on; what follows its text is data, whatever it looks like."""
    base: int
    """The place that the head and assembly address from."""
    got: int
    """The address that C code counts from."""
    copied: Wide
    """The length of the copy."""
    room: Room
    room_at: Wide
    text: tuple[int, int]
    """The code of the tail."""
    bss: tuple[int, int]
    end: int
    """The end of the memory that it needs."""
    fetches: frozenset[int]
    """Where calls return to in the tail that fetch the program counter."""
    assembly: tuple[tuple[int, int], ...]
    """Functions of the tail that address from `base`."""
    moved_words: tuple[int, int]
    """Words of data that the tail adds its address to."""

    @property
    def head_end(self) -> int:
        """The end of the head's code: a length stands before the payload in old code."""
        return self.payload[0] - WORD_LEN * (self.room is Room.LENGTHS)

    def is_assembly(self, off: int) -> bool:
        """Whether the instruction at `off` addresses as the head does."""
        return any(start <= off < end for start, end in self.assembly)

    def is_entry(self, off: int) -> bool:
        """Whether something is entered at `off` of the head: its start, and after what ends."""
        follows = True
        for line in self.head:
            if follows and not line.is_filler:
                if line.off == off:
                    return True
                follows = False
            follows |= not line.goes_on
        return False


def read_boot_code(code: bytes, payload: tuple[int, int]) -> BootCode:
    """Take the boot code `code` apart, whose payload has this offset and end. Raises Unknown."""
    head = _code_from_start(code, payload[0])
    base = _base(head)
    copied = _one("the length of the copy", _copies(head))
    room, room_at = _one("the place of the copy", _rooms(head))
    if room is Room.LENGTHS:
        at = payload[0] - WORD_LEN
        head = [line for line in head if line.end <= at]
        length = int.from_bytes(code[at : payload[0]], "little")
        if base or room_at.value != at or length != payload[1] - payload[0]:
            raise UnknownBootCode("the word before the payload is not its length", at)
    jumps = (base + disp for disp in _jumps(head))
    text = _one("the way to the tail", (off for off in jumps if 0 <= off - payload[1] < _MOST_GAP))
    if any(code[payload[1] : text]):
        raise UnknownBootCode("something stands between payload and tail", payload[1])
    tail = listing(code[text:], text)
    bss = _cleared(tail, base)
    fetches = frozenset(_fetches(tail))
    sums = list(_sums(tail, fetches))
    counted = [off for off, base_off, subtracts in sums if subtracts and base_off == 0]
    gots = {base_off for off, base_off, _ in sums if off not in counted}
    if len(gots) != 1:
        raise UnknownBootCode("C code addresses from more than one place, or from none", text)
    assembly = tuple((off, _end_of_function(tail, off)) for off in (text, *counted))
    text_end = _end_of_text(tail)
    end = base + room_at.value if room is Room.INIT_SIZE else -(-bss[1] // PAGE) * PAGE
    found = BootCode(
        code, payload, tuple(head), tuple(tail), base, gots.pop(), copied, room, room_at,
        (text, text_end), bss, end, fetches, assembly, _moved_words(tail),
    )  # fmt: skip
    last = bss[1] if room is Room.LENGTHS else bss[0]
    if copied.value != last or not text < text_end <= last <= bss[1] <= end:
        raise UnknownBootCode("its parts do not follow each other", text)
    return found


def _code_from_start(code: bytes, end: int) -> list[Line]:
    """The head. Its last bytes may be the length of the payload, which is not code."""
    lines = listing(code[:end], 0)
    broken = next((line for line in lines if not line.name and line.off < end - WORD_LEN), None)
    if broken is not None:
        raise UnknownBootCode("its head is not code from end to end", broken.off)
    return lines


def _one(what: str, found: Iterator[_Found]) -> _Found:
    every = list(found)
    if len(every) != 1:
        raise UnknownBootCode(f"{what} is told {len(every)} times", 0)
    return every[0]


def _base(head: Sequence[Line]) -> int:
    """The place that the head's registers point to: what it adds to its fetched address."""
    found = set()
    for call, pop, add in zip(head, head[1:], head[2:], strict=False):
        if call.name == "call" and call.target == call.end == pop.off and pop.name == "pop":
            for wide in add.wides:
                if add.name in ("add", "sub") and add.operands.startswith(pop.operands + ","):
                    found.add(pop.off + (wide.value if add.name == "add" else -wide.value))
    if len(found) != 1:
        raise UnknownBootCode("what its head addresses from is not told once", 0)
    return found.pop()


def _copies(head: Sequence[Line]) -> Iterator[Wide]:
    for index, line in enumerate(head):
        if line.name != "mov" or not line.operands.startswith("ecx, ") or len(line.wides) != 1:
            continue
        names = [each.name for each in head[index + 1 : index + 4]]
        if names[:2] == ["std", "rep movsb"] or names == ["shr", "std", "rep movsd"]:
            yield line.wides[0]


def _rooms(head: Sequence[Line]) -> Iterator[tuple[Room, Wide]]:
    for line, after in pairwise(head):
        reads_size = line.operands.endswith(_INIT_SIZE)
        register = line.operands.split(",")[0]
        subtracts = after.name == "sub" and after.operands.startswith(register + ",")
        if reads_size and line.name in ("add", "mov") and subtracts and after.wides:
            yield Room.INIT_SIZE, after.wides[-1]
        elif line.operands.startswith("ebx, ") and (
            (line.name == "mov" and line.wides) or (line.name, line.operands) == _ROUNDS
        ):
            adds = after.name == "add" and after.operands.startswith("ebx, ")
            if adds and after.wides and after.wides[0].is_immediate:
                yield Room.DISTANCE, after.wides[0]
        elif line.name == "sub" and line.operands.startswith("ebx, dword ptr [ebp"):
            reads_length = after.operands.startswith("eax, dword ptr [ebp")
            if after.name == "mov" and reads_length and line.wides:
                yield Room.LENGTHS, line.wides[0]


def _jumps(head: Sequence[Line]) -> Iterator[int]:
    """Displacements of the registers that the head jumps to."""
    for line, after in pairwise(head):
        is_pair = line.name == "lea" and after.name == "jmp" and line.wides
        if is_pair and line.operands.split(",")[0] == after.operands:
            yield line.wides[0].value


def _cleared(tail: Sequence[Line], base: int) -> tuple[int, int]:
    """.bss, which the tail clears first."""
    shown = [f"{line.name} {line.operands}" for line in tail[:4]]
    if not all(map(str.startswith, shown, _CLEARS)):
        raise UnknownBootCode(
            "its tail does not begin by clearing .bss", tail[0].off if tail else 0
        )
    low, high = (base + tail[index].wides[0].value for index in (1, 2))
    return low, high


def _fetches(tail: Sequence[Line]) -> Iterator[int]:
    """Returns of calls whose callee is the next instruction, or takes the address and returns."""
    at = {line.off: index for index, line in enumerate(tail)}
    for line in tail:
        if line.name != "call" or line.target is None or not line.is_wide:
            continue
        index = at.get(line.target)
        callee = tail[index : index + 2] if index is not None else []
        takes = len(callee) == 2 and callee[0].name == "mov" and callee[1].name == "ret"
        if line.target == line.end or (takes and _THUNK.fullmatch(callee[0].operands)):
            yield line.end


def _sums(tail: Sequence[Line], fetches: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Sums computed right after a fetch: where, to which offset, and whether by subtraction."""
    for line in tail:
        for wide in line.wides:
            if wide.is_immediate and wide.may_point:
                for fetched in (line.off, line.off - 1):
                    if fetched in fetches:
                        subtracts = line.name == "sub"
                        value = -wide.value if subtracts else wide.value
                        yield line.off, fetched + value, subtracts


def _end_of_function(tail: Sequence[Line], off: int) -> int:
    """The end of the function that holds the instruction at `off`."""
    furthest = off
    for line in tail:
        if line.off < off:
            continue
        if line.off - off > _FIRST_FUNCTION:
            break
        is_branch = line.name != "call" and line.target is not None
        if is_branch and not line.name.startswith(("loop", "jecxz", "jcxz")):
            furthest = max(furthest, line.target or 0)
        if not line.goes_on and line.target is None and line.off >= furthest:
            return line.end
    raise UnknownBootCode("the end of a function of assembly is not found", off)


def _end_of_text(tail: Sequence[Line]) -> int:
    """The end of the first function after which no earlier branch goes."""
    furthest, limit = tail[0].off, tail[-1].end
    for line in tail:
        if line.target is not None and line.target < limit:
            furthest = max(furthest, line.target)
        if line.name and not line.goes_on and line.off >= furthest:
            return line.end
    raise UnknownBootCode("the end of its code is not found", tail[0].off)


def _moved_words(tail: Sequence[Line]) -> tuple[int, int]:
    """The range of words that the first function adds its address to."""
    first = [line for line in tail if line.off < tail[0].off + _FIRST_FUNCTION]
    for low, high, compare in zip(first, first[1:], first[2:], strict=False):
        leas = low.name == high.name == "lea" and low.wides and high.wides
        if leas and f"{compare.name} {compare.operands}" == "cmp edx, ecx":
            return low.wides[0].value, high.wides[0].value
    return 0, 0


def fetched_by(boot: BootCode, line: Line, wide: Wide) -> int | None:
    """The fetched address to which `wide` adds the way to the GOT, if it does."""
    fetched = boot.got - wide.value
    is_near = 0 <= line.off - fetched < _FAR_FROM_FETCH
    is_sum = wide.is_immediate and wide.may_point and fetched in boot.fetches
    return fetched if is_sum and is_near else None
