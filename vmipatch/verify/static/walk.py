# SPDX-License-Identifier: MIT
"""What does a thunk do, instruction by instruction?

Thunks are made of few instructions; these are taken apart here by the tables of the manual (Intel
SDM volume 2, chapter 2 and appendix A), with no decoder's help. Whatever else stands in the way is
a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmipatch.isa.classify import OPERAND_SIZE, split_prefixes
from vmipatch.verify.static.machine import EAX, ECX, ESP, RETURN, State, Unmodelled, merged
from vmipatch.verify.static.symbolic import Value, constant, unknown
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import MERGE_FLAGS, NEAR_CALL, NEAR_CALL_LEN

STACK_SEGMENT = 0x36
SEGMENT_REGISTERS = {1: "cs", 2: "ss"}
NO_BASE = 5
MOST_STEPS = 32


@dataclass(frozen=True, slots=True)
class Operand:
    """ModRM and what belongs to it: a register, or an address in memory."""

    reg: int
    register: int | None
    address: Value
    parts: tuple[Value, Value]
    """Base and index of the address."""
    length: int
    word_at: int | None
    """Where the four bytes of a displacement are, counted from ModRM."""


def operand(code: bytes, state: State) -> Operand:
    """Take ModRM apart, at the beginning of `code`. Raises Unmodelled if it is cut."""
    try:
        return _operand(code, state)
    except IndexError:
        raise Unmodelled("its code is cut") from None


def _operand(code: bytes, state: State) -> Operand:
    mod, reg, low = code[0] >> 6, code[0] >> 3 & 7, code[0] & 7
    zero = constant(0)
    if mod == 3:
        return Operand(reg, low, zero, (zero, zero), 1, None)
    at, base, index = 1, low, zero
    if low == ESP:
        at, base = 2, code[1] & 7
        if code[1] >> 3 & 7 != ESP:
            index = state.registers[code[1] >> 3 & 7].times(1 << (code[1] >> 6))
    bare = mod == 0 and base == NO_BASE
    width = 4 if bare or mod == 2 else mod
    if len(code) < at + width:
        raise IndexError
    disp = constant(int.from_bytes(code[at : at + width], "little", signed=True))
    start = zero if bare else state.registers[base]
    word_at = at if width == 4 else None
    return Operand(reg, None, start + index + disp, (start, index), at + width, word_at)


@dataclass(slots=True)
class Walk:
    """All code that was gone through, so far."""

    va: int
    code: bytes
    aims: Mapping[int, int]
    """Address of each place that the runtime aims, and the call number it is aimed at."""
    seen: dict[int, int] = field(default_factory=dict)
    """Address and length of each instruction."""

    def run(self, va: int, state: State) -> tuple[list[State], list[int]]:
        """The states in which the code at `va` returns, entered in `state`.

        Also gives the addresses of words of memory operands that it uses. Raises Unmodelled.
        """
        done: list[State] = []
        words: list[int] = []
        ways = [(va, state)]
        while ways:
            at, now = ways.pop()
            for _ in range(MOST_STEPS):
                following = self._step(at, now, ways, words)
                if following is None:
                    done.append(now)
                    break
                at = following
            else:
                raise Unmodelled("it does not end")
        return done, words

    def _step(
        self, va: int, state: State, ways: list[tuple[int, State]], words: list[int]
    ) -> int | None:
        """Execute one instruction; the address of the next one, None after ret."""
        off = va - self.va
        if not 0 <= off < len(self.code):
            raise Unmodelled(f"it targets {va:#x}, where no thunk is")
        prefixes, rest = split_prefixes(self.code[off : off + 15])
        if not rest or any(p not in (OPERAND_SIZE, STACK_SEGMENT) for p in prefixes):
            raise Unmodelled(f"{va:#x} is not an instruction of thunks")
        rest_va, is_narrow = va + len(prefixes), OPERAND_SIZE in prefixes
        length = _plain(rest, state) if not prefixes else 0
        if not length and not prefixes and rest[0] == 0xE8:
            length = self._call(va, rest, state)
        if not length and not prefixes and rest[0] == 0xE3:
            length = 2
            self._fork(va + 2 + int.from_bytes(rest[1:2], "little", signed=True), state, ways)
        if not length and not prefixes and rest[0] == 0xC3:
            self.seen[va] = 1
            if state.pop() != RETURN:
                raise Unmodelled("it returns elsewhere than after its site")
            return None
        if not length:
            length = self._moves(rest_va, rest, is_narrow, state, words)
        if not length:
            raise Unmodelled(f"`{rest[:4].hex(' ')}` at {va:#x} is not an instruction of thunks")
        self.seen[va] = len(prefixes) + length
        if va not in self.aims or rest[0] in (0xE8, 0x8D):
            return rest_va + length
        raise Unmodelled(f"the runtime would write over {va:#x}")

    def _call(self, va: int, rest: bytes, state: State) -> int:
        number = self.aims.get(va)
        known = number is not None and number in VmiCall._value2member_map_
        if rest[:NEAR_CALL_LEN] != NEAR_CALL or number is None or not known:
            raise Unmodelled(f"the call at {va:#x} is not aimed by the runtime")
        state.call(VmiCall(number))
        return NEAR_CALL_LEN

    def _fork(self, target_va: int, state: State, ways: list[tuple[int, State]]) -> None:
        """Jecxz: both ways."""
        other = state.copy()
        other.conditions += ((state.registers[ECX], True),)
        state.conditions += ((state.registers[ECX], False),)
        ways.append((target_va, other))

    def _moves(self, va: int, rest: bytes, is_narrow: bool, state: State, words: list[int]) -> int:
        """Instructions with ModRM at `va`; 0 if thunks do not have it."""
        opcode = rest[0]
        if opcode not in (0x89, 0x8B, 0x8C, 0x8D, 0xFF):
            return 0
        if _scales_nothing(rest[1:3]):
            raise Unmodelled(f"`{rest[:4].hex(' ')}` at {va:#x} scales an index that it has not")
        found = operand(rest[1:], state)
        if opcode == 0x8D and found.register is None:
            self._lea(va, found, is_narrow, state)
            if found.word_at is not None and va not in self.aims:
                words.append(va + 1 + found.word_at)
        elif opcode == 0x8C and found.register is not None and found.reg in SEGMENT_REGISTERS:
            state.put(found.register, unknown(SEGMENT_REGISTERS[found.reg]), is_narrow)
        elif opcode == 0x89 and found.register is not None:
            state.put(found.register, state.registers[found.reg], is_narrow)
        elif opcode == 0x8B and found.register is not None:
            state.put(found.reg, state.registers[found.register], is_narrow)
        elif opcode == 0x89 and not is_narrow:
            state.store(found.address, state.registers[found.reg])
        elif opcode == 0x8B and not is_narrow:
            state.put(found.reg, state.load(found.address))
        elif opcode == 0xFF and found.reg == 6 and found.register is None and not is_narrow:
            state.push(state.load(found.address))
        else:
            return 0
        return 1 + found.length

    def _lea(self, va: int, found: Operand, is_narrow: bool, state: State) -> None:
        number = self.aims.get(va)
        if number is None:
            state.put(found.reg, found.address, is_narrow)
        elif number == MERGE_FLAGS and not is_narrow:
            state.put(found.reg, merged(*found.parts))
        else:
            raise Unmodelled(f"the runtime would write a call over the lea at {va:#x}")


def _scales_nothing(code: bytes) -> bool:
    """Whether ModRM and SIB have a scale and no index: another form of the same instruction."""
    has_sib = len(code) > 1 and code[0] >> 6 != 3 and code[0] & 7 == ESP
    return has_sib and code[1] >> 3 & 7 == ESP and bool(code[1] >> 6)


def _plain(rest: bytes, state: State) -> int:
    """Instructions without ModRM; gives their length, 0 if it is not one of them."""
    opcode, register = rest[0], rest[0] & 7
    if opcode & 0xF8 == 0x50:
        state.push(state.registers[register])
    elif opcode & 0xF8 == 0x58:
        state.put(register, state.pop())
    elif opcode & 0xF8 == 0xB8 and len(rest) >= NEAR_CALL_LEN:
        state.put(register, constant(int.from_bytes(rest[1:5], "little")))
        return 5
    elif opcode == 0x9C:
        state.push(state.flags)
    elif opcode == 0x9D:
        state.flags = state.pop()
    elif opcode == 0xF4:
        state.effect("hlt")
    elif opcode == 0x90:
        state.put(EAX, state.registers[EAX])
    else:
        return 0
    return 1
