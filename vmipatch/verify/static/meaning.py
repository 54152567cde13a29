# SPDX-License-Identifier: MIT
"""What has to be different behind a site, if its instruction is done by a call of the ROM?

Operands as the manual has them (Intel SDM volume 2), arguments as API 3.1 has them; independent
of how a thunk brings the ones to the others.
"""

from __future__ import annotations

from vmipatch.isa.classify import OPERAND_SIZE, split_prefixes
from vmipatch.isa.forms import Form
from vmipatch.verify.static.machine import EAX, ECX, EDX, State, Unmodelled, merged
from vmipatch.verify.static.symbolic import Value, constant, unknown
from vmipatch.verify.static.walk import Operand, operand, zero_extended
from vmipatch.vmi.calls import VmiCall

OWN_SEGMENTS = frozenset(b"\x64\x65\x67")
"""FS and GS have bases of their own; 67 makes 16-bit addresses."""
REPEATS = frozenset(b"\xf2\xf3")
IMMEDIATE_PORTS = (b"\xe4", b"\xe5", b"\xe6", b"\xe7")
GETS_SELECTOR = frozenset({"sldt", "str", "smsw"})
POINTERS = frozenset({"lgdt", "lidt", "sgdt", "sidt", "invlpg"})
STACK_KINDS = frozenset({"pushf", "popf", "iret", "push cs", "push ss"})
SAME_REGISTERS = frozenset(
    {"cli", "sti", "iret", "clts", "wbinvd", "rdtsc", "rdpmc", "rdmsr", "wrmsr", "cpuid", "xsetbv"}
)
"""Kinds whose operands are where the call has them."""


def meaning(form: Form, codes: list[bytes], call: VmiCall) -> tuple[list[State], int | None]:
    """The states behind a site of `form`, and where in its code the word of an operand is.

    Raises Unmodelled for what has no translation.
    """
    prefixes, rest = split_prefixes(codes[0])
    state, behind = State(), rest[len(form.opcode) :]
    if form.kind in STACK_KINDS and OPERAND_SIZE in prefixes:
        raise Unmodelled(f"16 bits wide, {form.name} has no translation")
    if form.kind == "hlt":
        return _halt(state, call), None
    if form.kind in SAME_REGISTERS:
        _do(state, call)
    elif form.kind in ("in", "out"):
        _port(state, rest, call)
    elif form.kind in ("ins", "outs"):
        _string(state, prefixes, call)
    elif form.kind in STACK_KINDS or form.kind == "pushf":
        _stack(state, form, codes[1:], call)
    else:
        found = operand(behind, state)
        if found.register is None and OWN_SEGMENTS & set(prefixes):
            raise Unmodelled("its operand lies in a segment of its own")
        _with_operand(state, form, found, OPERAND_SIZE in prefixes, call)
        if found.word_at is not None:
            return [state], len(codes[0]) - len(behind) + found.word_at
    return [state], None


def _do(state: State, call: VmiCall) -> None:
    """A call that is made with the registers as they are, all of them."""
    state.effect(call.name, *state.registers)


def _halt(state: State, call: VmiCall) -> list[State]:
    """With interrupts off the instruction itself stops for good."""
    eax = state.registers[EAX]
    state.call(VmiCall.GET_INTERRUPT_MASK)
    mask, state.registers[EAX] = state.registers[EAX], eax
    off = state.copy()
    off.conditions, state.conditions = ((mask, True),), ((mask, False),)
    off.effect("hlt")
    state.call(call)
    return [state, off]


def _port(state: State, rest: bytes, call: VmiCall) -> None:
    edx = state.registers[EDX]
    if rest[:1] in IMMEDIATE_PORTS:
        state.registers[EDX] = constant(rest[1])
    state.call(call)
    state.registers[EDX] = edx


def _string(state: State, prefixes: bytes, call: VmiCall) -> None:
    ecx = state.registers[ECX]
    if REPEATS & set(prefixes):
        state.call(call)
        return
    state.registers[ECX] = constant(1)
    state.call(call)
    state.registers[ECX] = ecx


def _stack(state: State, form: Form, follower: list[bytes], call: VmiCall) -> None:
    if form.kind.startswith("push "):
        state.push(_selector(form.kind))
    elif form.kind == "pushf":
        state.push(merged(state.flags, _answer(state, call)))
        if follower:
            state.put(follower[0][0] & 7, state.pop())
    elif form.kind == "popf":
        state.flags = state.pop()
        _ask(state, call, state.flags)


def _with_operand(state: State, form: Form, found: Operand, is_narrow: bool, call: VmiCall) -> None:
    kind, register = form.kind, found.register
    # MOV to and from CR and DR ignore the mod field.
    if kind == "mov to cr" and register is not None:
        _ask(state, call, state.registers[register])
    elif kind == "mov from cr" and register is not None:
        state.put(register, _answer(state, call))
    elif kind == "mov to dr" and register is not None:
        _ask(state, call, constant(found.reg), state.registers[register])
    elif kind == "mov from dr" and register is not None:
        state.put(register, _answer(state, call, constant(found.reg)))
    elif kind in POINTERS:
        _ask(state, call, found.address)
    elif kind in ("lldt", "ltr"):
        narrow = state.load_narrow(found.address) if register is None else None
        selector = narrow or zero_extended(state.registers[register or 0])
        _ask(state, call, selector)
    elif kind in GETS_SELECTOR:
        _give(state, found, _answer(state, call), is_narrow)
    elif kind in ("mov from cs", "mov from ss"):
        _give(state, found, _selector(kind), is_narrow)
    else:
        raise Unmodelled(f"no translation is known for {form.name}")


def _give(state: State, found: Operand, value: Value, is_narrow: bool) -> None:
    """To a register, or 16 bits to memory."""
    if found.register is None:
        state.store_narrow(found.address, value)
    else:
        state.put(found.register, value, is_narrow)


def _selector(kind: str) -> Value:
    """CS or SS as at CPL 0: the RPL is 1."""
    return unknown(kind[-2:]) + constant(-1)


def _ask(state: State, call: VmiCall, eax: Value, edx: Value | None = None) -> None:
    """A call with arguments in EAX and EDX that leaves no register changed."""
    kept = list(state.registers)
    state.registers[EAX] = eax
    state.registers[EDX] = kept[EDX] if edx is None else edx
    state.call(call)
    state.registers = kept


def _answer(state: State, call: VmiCall, eax: Value | None = None) -> Value:
    """What a call answers in EAX; no register is changed."""
    kept = list(state.registers)
    state.registers[EAX] = kept[EAX] if eax is None else eax
    state.call(call)
    answer, state.registers = state.registers[EAX], kept
    return answer


def direct(form: Form, call: VmiCall) -> State:
    """The state behind a site that calls the ROM itself."""
    state = State()
    if form.kind in SAME_REGISTERS:
        _do(state, call)
    else:
        state.call(call)
    return state
