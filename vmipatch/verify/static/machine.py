# SPDX-License-Identifier: MIT
"""What has changed, symbolically, when a piece of code that calls the ROM has run?

The machine knows registers, flags, the stack around the site and the order in which the ROM is
called; what a call of the ROM does is unknown but for the registers that it reads and writes
(API 3.1: it keeps all others, and the flags).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmipatch.verify.static.symbolic import Value, constant, joined, unknown
from vmipatch.vmi.calls import VmiCall

EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)
REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SITE_ESP = unknown("esp")
RETURN = unknown("return address")
_C = VmiCall

_SETS = frozenset(
    {_C.SET_CR0, _C.SET_CR2, _C.SET_CR3, _C.SET_CR4, _C.INVAL_PAGE, _C.SET_INTERRUPT_MASK}
)
_GETS = frozenset(
    {_C.GET_CR0, _C.GET_CR2, _C.GET_CR3, _C.GET_CR4, _C.GET_LDT, _C.GET_TR, _C.GET_INTERRUPT_MASK}
)
_IN, _OUT = frozenset({_C.INB, _C.INW, _C.INL}), frozenset({_C.OUTB, _C.OUTW, _C.OUTL})
_INS, _OUTS = frozenset({_C.INSB, _C.INSW, _C.INSL}), frozenset({_C.OUTSB, _C.OUTSW, _C.OUTSL})

READS: dict[VmiCall, tuple[int, ...]] = {
    **dict.fromkeys(_SETS | {_C.GET_DR}, (EAX,)),
    **dict.fromkeys(_IN | _OUT | {_C.SET_DR}, (EAX, EDX)),
    **dict.fromkeys(_INS, (ECX, EDX, EDI)),
    **dict.fromkeys(_OUTS, (ECX, EDX, ESI)),
    **dict.fromkeys(_GETS | {_C.HALT}, ()),
}
"""Registers that each call which a thunk makes reads."""
WRITES: dict[VmiCall, tuple[int, ...]] = {
    **dict.fromkeys(_GETS | _IN | {_C.GET_DR}, (EAX,)),
    **dict.fromkeys(_INS, (ECX, EDI)),
    **dict.fromkeys(_OUTS, (ECX, ESI)),
}
"""Registers in which calls answer."""


class Unmodelled(Exception):
    """Code that the machine does not understand; the message says why."""


@dataclass(slots=True)
class State:
    """Registers, flags and stack, and what was done outside of them, in order."""

    registers: list[Value] = field(default_factory=lambda: [unknown(n) for n in REGISTERS])
    flags: Value = field(default_factory=lambda: unknown("flags"))
    stack: dict[int, Value] = field(default_factory=dict)
    """Words by their distance to ESP as the site had it; those never written are missing."""
    effects: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    conditions: tuple[tuple[Value, bool], ...] = ()
    """Which values were found zero, or not, on the way."""
    risen: int = 0
    """How high ESP has been, by its distance: an interrupt may have come and written below that."""

    def copy(self) -> State:
        """The same state, to go another way from."""
        return State(
            list(self.registers), self.flags, dict(self.stack), self.effects, self.conditions,
            self.risen,
        )  # fmt: skip

    def put(self, register: int, value: Value, is_narrow: bool = False) -> None:
        """Write a register, or its lower 16 bits."""
        self.registers[register] = joined(value, self.registers[register]) if is_narrow else value
        if register == ESP:
            self._lose_below()

    def push(self, value: Value) -> None:
        """Push a word."""
        self.registers[ESP] += constant(-4)
        self.store(self.registers[ESP], value)

    def pop(self) -> Value:
        """Pop a word."""
        value = self.load(self.registers[ESP])
        self.registers[ESP] += constant(4)
        self._lose_below()
        return value

    def load(self, address: Value) -> Value:
        """A word of the stack. Raises Unmodelled for other memory, and for what may be lost."""
        at = self._held(address)
        if at < self.risen and at not in self.stack:
            raise Unmodelled("it reads a word that an interrupt may have written over")
        return self.stack.get(at, _untouched(at))

    def store(self, address: Value, value: Value) -> None:
        """Write a word of the stack. Raises Unmodelled for other memory."""
        self.stack[self._held(address)] = value

    def _held(self, address: Value) -> int:
        """The distance of a word that is not below ESP. Raises Unmodelled for another one."""
        at = _distance(address)
        if at < _distance(self.registers[ESP]):
            raise Unmodelled("it uses a word below its stack pointer")
        return at

    def _lose_below(self) -> None:
        """Forget what is below ESP: whatever interrupts the code uses that."""
        top = _distance(self.registers[ESP])
        self.risen = max(self.risen, top)
        self.stack = {at: value for at, value in self.stack.items() if at >= top}

    def effect(self, name: str, *values: Value) -> None:
        """Note something done."""
        self.effects = (*self.effects, (name, values))

    def call(self, number: VmiCall) -> None:
        """Let the ROM do what `number` says."""
        if number not in READS:
            raise Unmodelled(f"{number.name} is not a call that a thunk makes")
        self.effect(number.name, *(self.registers[r] for r in READS[number]))
        for register in WRITES.get(number, ()):
            answer = f"{REGISTERS[register]} from call {len(self.effects)}"
            self.registers[register] = unknown(answer)

    def differs_from(self, should: State) -> str | None:
        """In what the state differs from the one that `should` be; None if in nothing."""
        for number, name in enumerate(REGISTERS):
            if self.registers[number] != should.registers[number]:
                return f"{name} differs after it"
        if self.flags != should.flags:
            return "the flags differ after it"
        if self.effects != should.effects:
            return "it makes other calls, or with other arguments"
        top = _distance(self.registers[ESP])
        if strange := [at for at in self.stack.keys() - should.stack.keys() if at >= top]:
            # For a while: another processor may look, as at what waits in a queue.
            return f"it writes a word of its caller's stack, at {min(strange):+}"
        for at in sorted({*self.stack, *should.stack}):
            mine, wanted = (s.stack.get(at, _untouched(at)) for s in (self, should))
            if at >= top and mine != wanted:
                return f"the stack differs at {at:+}"
        return None


def merged(flags: Value, mask: Value) -> Value:
    """Real flags with the virtual interrupt flag."""
    return unknown("merged flags", flags, mask)


def _distance(address: Value) -> int:
    at = address.above(SITE_ESP)
    if at is None or at % 4:
        raise Unmodelled("it uses a word of memory that is not on its stack")
    return at


def _untouched(at: int) -> Value:
    return unknown(f"stack {at:+}")
