# SPDX-License-Identifier: MIT
"""What has to be different after a site, if its instruction is done by a call of the ROM?

Operands as the manual has them (Intel SDM volume 2), arguments as API 3.1 has them; independent
of how a thunk brings the ones to the others.
"""

from __future__ import annotations

from vmipatch.isa.classify import DS_SEGMENT, OPERAND_SIZE, REPEATS, SEGMENTS, split_prefixes
from vmipatch.isa.forms import Form
from vmipatch.verify.static.machine import EAX, EDX, ESP, State, Unmodelled, merged
from vmipatch.verify.static.symbolic import Value, constant, unknown
from vmipatch.verify.static.walk import Operand, operand
from vmipatch.vmi.calls import VmiCall

OWN_SEGMENTS = frozenset(b"\x64\x65\x67")
"""FS and GS have bases of their own; 67 makes 16-bit addresses."""
IMMEDIATE_PORTS = (b"\xe4", b"\xe5", b"\xe6", b"\xe7")
GETS_SELECTOR = frozenset({"sldt", "str", "smsw"})
FAULTING = frozenset({"lgdt", "lidt", "sgdt", "sidt", "lldt", "ltr"})
"""Kinds whose operand may fault: only the instruction itself shows where (decision 0028)."""
STACK_KINDS = frozenset({"pushf", "popf", "iret", "push cs", "push ss"})
SAME_REGISTERS = frozenset(
    {"cli", "sti", "iret", "clts", "wbinvd", "rdtsc", "rdpmc", "rdmsr", "wrmsr", "cpuid", "xsetbv"}
)
"""Kinds whose operands are where the call has them."""


def meaning(form: Form, codes: list[bytes], call: VmiCall) -> tuple[list[State], int | None]:
    """The states after a site of `form`, and where in its code the word of an operand is.

    Raises Unmodelled for what has no translation.
    """
    prefixes, rest = split_prefixes(codes[0])
    state, following = State(), rest[len(form.opcode) :]
    if form.kind in STACK_KINDS and OPERAND_SIZE in prefixes:
        raise Unmodelled(f"16 bits wide, {form.name} has no translation")
    if form.kind == "hlt":
        return _halt(state, call), None
    if form.kind in SAME_REGISTERS:
        _do(state, call)
    elif form.kind in ("in", "out"):
        _port(state, rest, call)
    elif form.kind in ("ins", "outs"):
        _string(state, form, prefixes, call)
    elif form.kind in STACK_KINDS or form.kind == "pushf":
        _stack(state, form, codes[1:], call)
    else:
        found = operand(following, state)
        if form.kind in FAULTING or (found.register is None and form.kind != "invlpg"):
            raise Unmodelled(f"{form.name} may fault, and a thunk would show another place")
        if found.register == ESP:
            raise Unmodelled("its operand is ESP, which the call of a thunk moves")
        if found.register is None and OWN_SEGMENTS & set(prefixes):
            raise Unmodelled("its operand lies in a segment of its own")
        _with_operand(state, form, found, OPERAND_SIZE in prefixes, call)
        if found.word_at is not None:
            return [state], len(codes[0]) - len(following) + found.word_at
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


def _string(state: State, form: Form, prefixes: bytes, call: VmiCall) -> None:
    """The calls repeat, by 32-bit addresses; INS takes no segment, OUTS may be told the usual."""
    plain = {OPERAND_SIZE, DS_SEGMENT, *REPEATS, *(SEGMENTS if form.kind == "ins" else ())}
    if not REPEATS & set(prefixes) or set(prefixes) - plain:
        raise Unmodelled(f"no call does what {form.name} does with these prefixes")
    state.call(call)


def _stack(state: State, form: Form, follower: list[bytes], call: VmiCall) -> None:
    if form.kind.startswith("push "):
        state.push(_selector(form.kind))
    elif form.kind == "pushf":
        state.push(merged(state.flags, _answer(state, call)))
        if follower:
            if follower[0][0] & 7 == ESP:
                raise Unmodelled("it fills ESP, which the call of a thunk moves")
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
    elif kind == "invlpg":
        _ask(state, call, found.address)
    elif kind in GETS_SELECTOR and register is not None:
        state.put(register, _answer(state, call), is_narrow)
    elif kind in ("mov from cs", "mov from ss") and register is not None:
        state.put(register, _selector(kind), is_narrow)
    else:
        raise Unmodelled(f"no translation is known for {form.name}")


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
    """Put the answer of a call into EAX; no register is changed."""
    kept = list(state.registers)
    state.registers[EAX] = kept[EAX] if eax is None else eax
    state.call(call)
    answer, state.registers = state.registers[EAX], kept
    return answer


def direct(form: Form, call: VmiCall) -> State:
    """The state after a site that calls the ROM itself."""
    state = State()
    if form.kind in SAME_REGISTERS:
        _do(state, call)
    else:
        state.call(call)
    return state
