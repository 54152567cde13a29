# SPDX-License-Identifier: MIT
"""How the operands of an instruction become those of its VMI call: one maker for each kind.

A thunk moves operands between the registers of the instruction and those of the call. It is entered
by a near call from the site, so the site's stack lies 4 bytes higher. The ROM's entries of API 3.1
keep every register but their results, and the flags; so thunks are made of instructions that keep
the flags too (mov, lea, push, pop, jecxz).

A fault has to arrive with the address and the registers of the instruction itself, which a thunk
cannot give: what reads or writes memory, or loads a selector, and is not answered by a call in its
place stays native (decision 0028).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.errors import VmipatchError
from vmipatch.isa.classify import DS_SEGMENT, OPERAND_SIZE, REPEATS, SEGMENTS, split_prefixes
from vmipatch.isa.operand import Address, address_of, register_operand
from vmipatch.scan.site import Fusion, Site
from vmipatch.vmi.calls import VmiCall

ADDRESS = "lea eax, operand"

MERGE = "merge flags: "
"""Real flags and the virtual IF in EAX are put together in the register that follows.

`lea r, [flags + eax - 0x200]`: while deprivileged the real IF is on. At CPL 0 it is the one that
counts, and the runtime takes index and displacement out of the instruction (SIB.index = none)."""

RETURN_LEN = 4
"""The return address that the call of the site pushed."""

SAME_REGISTERS = frozenset(
    {"cli", "sti", "iret", "clts", "wbinvd", "rdtsc", "rdpmc", "rdmsr", "wrmsr", "cpuid",
     "xsetbv", "sti+hlt", "sti+sysexit"}
)  # fmt: skip
"""Kinds whose registers are those of their call: the site calls the ROM itself."""


class Untranslatable(VmipatchError):
    """No call and no thunk can stand for a site: it stays native."""

    def __init__(self, site: Site) -> None:
        super().__init__(f"no translation is known for {site.kind}", place=f"{site.va:#x}")


@dataclass(frozen=True, slots=True)
class ThunkCode:
    """Assembler lines. `call N` stands for a near call of VMI call N, ADDRESS for `address`."""

    lines: tuple[str, ...]
    address: Address | None = None


def thunk_code(site: Site) -> ThunkCode | None:
    """The thunk of `site`, or None if it calls the ROM directly. Raises Untranslatable."""
    kind = site.kind
    if kind in _STACK_KINDS and _is_narrow(site):
        raise Untranslatable(site)
    if kind in SAME_REGISTERS:
        return None
    if kind in _MAKERS:
        return _MAKERS[kind](site)
    raise Untranslatable(site)


def _register(site: Site, width: int = 32) -> str:
    """The register operand. Raises Untranslatable for memory, and for ESP, which a call moves."""
    _, rest = split_prefixes(site.code)
    is_register = rest[len(site.forms[0].opcode)] >> 6 == REGISTER_MOD
    register = register_operand(site.code, width) if is_register else None
    if register is None or register in ("esp", "sp"):
        raise Untranslatable(site)
    return register


REGISTER_MOD = 3
"""MOV to and from CR and DR name a register by any mod; what is not written so stays native."""


_STACK_KINDS = frozenset({"pushf", "popf", "iret", "push cs", "push ss"})
"""With an operand size of 16 bits they move words on the stack: only boot code does that."""


def _is_narrow(site: Site) -> bool:
    return OPERAND_SIZE in split_prefixes(site.code)[0]


def _lines(*lines: str, address: Address | None = None) -> ThunkCode:
    return ThunkCode(lines, address)


def _address(site: Site, deeper_len: int) -> Address:
    found = address_of(site.code, len(site.forms[0].opcode), site.va, deeper_len)
    if found is None:
        raise Untranslatable(site)
    return found


def _call(site: Site) -> str:
    assert site.call is not None, "a site is rewritten because a call stands for it"
    return f"call {int(site.call)}"


def _port(site: Site) -> ThunkCode | None:
    """IN and OUT: the register form is the call's; an immediate port goes to DX."""
    _, rest = split_prefixes(site.code)
    if rest[0] not in _IMMEDIATE_PORTS:
        return None
    return _lines("push edx", f"mov edx, {rest[1]}", _call(site), "pop edx", "ret")


_IMMEDIATE_PORTS = range(0xE4, 0xE8)


def _string_port(site: Site) -> None:
    """INS and OUTS: the calls repeat ECX times, with the addresses of flat segments and 32 bits.

    One that does not repeat would want ECX = 1, which its page fault must not show.
    """
    prefixes, _ = split_prefixes(site.code)
    meaning = set(prefixes) - {OPERAND_SIZE, DS_SEGMENT, *REPEATS}
    if site.kind == "ins":  # it writes to ES, whatever segment a prefix names
        meaning -= SEGMENTS
    if meaning or not REPEATS & set(prefixes):
        raise Untranslatable(site)


def _to_control(site: Site) -> ThunkCode | None:
    register = _register(site)
    if register == "eax":
        return None
    return _lines("push eax", f"mov eax, {register}", _call(site), "pop eax", "ret")


def _from_control(site: Site) -> ThunkCode | None:
    register = _register(site)
    if register == "eax":
        return None
    return _lines("push eax", _call(site), f"mov {register}, eax", "pop eax", "ret")


def _to_debug(site: Site) -> ThunkCode:
    return _lines(
        "push eax", "push edx", f"push {_register(site)}", "pop edx",
        f"mov eax, {_debug_register(site)}", _call(site), "pop edx", "pop eax", "ret",
    )  # fmt: skip


def _from_debug(site: Site) -> ThunkCode:
    register, number = _register(site), _debug_register(site)
    if register == "eax":
        return _lines(f"mov eax, {number}", _call(site), "ret")
    return _lines(
        "push eax", f"mov eax, {number}", _call(site), f"mov {register}, eax", "pop eax", "ret"
    )


def _debug_register(site: Site) -> int:
    _, rest = split_prefixes(site.code)
    return (rest[len(site.forms[0].opcode)] >> 3) & 7


def _invalidate(site: Site) -> ThunkCode:
    """INVLPG: EAX is the address of the operand, which is not read."""
    address = _address(site, RETURN_LEN + 4)
    return _lines("push eax", ADDRESS, _call(site), "pop eax", "ret", address=address)


def _store_selector(site: Site) -> ThunkCode:
    """SLDT, STR, SMSW: the call gives it in EAX; a register of 16 bits keeps its upper half."""
    register = _register(site, width=16 if _is_narrow(site) else 32)
    if register == "eax":
        return _lines(_call(site), "ret")
    if register == "ax":
        return _lines(
            "push ecx", "mov ecx, eax", _call(site), "mov cx, ax", "mov eax, ecx", "pop ecx", "ret"
        )
    source = "ax" if _is_narrow(site) else "eax"
    return _lines("push eax", _call(site), f"mov {register}, {source}", "pop eax", "ret")


def _read_segment(site: Site) -> ThunkCode:
    """MOV r, CS or SS: at CPL 1 the RPL is 1, the reader expects 0."""
    segment = site.kind[-2:]
    register = _register(site, width=16 if _is_narrow(site) else 32)
    wide = f"e{register}" if _is_narrow(site) else register
    return _lines(f"mov {register}, {segment}", f"lea {register}, [{wide} - 1]", "ret")


def _push_segment(site: Site) -> ThunkCode:
    return _lines(
        "push dword ptr [esp]", "push eax", f"mov eax, {site.kind[-2:]}", "lea eax, [eax - 1]",
        "mov dword ptr [esp + 8], eax", "pop eax", "ret",
    )  # fmt: skip


def _pushf(site: Site) -> ThunkCode | None:
    """All flags, with the virtual interrupt flag in place of the real one, which is on."""
    mask = f"call {int(VmiCall.GET_INTERRUPT_MASK)}"
    if site.fusion is not Fusion.READ_FLAGS:
        return _lines(
            "push dword ptr [esp]", "push eax", "push ecx", "pushfd", "pop ecx", mask,
            f"{MERGE}ecx_to_eax", "mov dword ptr [esp + 12], eax", "pop ecx", "pop eax",
            "ret",
        )  # fmt: skip
    register = _REGISTERS[split_prefixes(site.code)[1][1] & 7]
    if register == "esp":
        raise Untranslatable(site)
    other = "ecx" if register == "eax" else "eax"
    result = "eax" if register == "eax" else register
    if register == "eax":
        return _lines("push ecx", "pushfd", "pop ecx", mask, f"{MERGE}ecx_to_eax", "pop ecx", "ret")
    return _lines(
        f"push {other}", "pushfd", f"pop {result}", mask,
        f"{MERGE}{result}", f"pop {other}", "ret",
    )  # fmt: skip


def _popf(site: Site) -> ThunkCode:
    """The arithmetic flags for real, then the interrupt flag, which may deliver an event."""
    return _lines(
        "push eax", "mov eax, dword ptr [esp + 8]", "push eax", "popfd", _call(site),
        "mov eax, dword ptr [esp + 4]", "mov dword ptr [esp + 8], eax", "pop eax",
        "lea esp, [esp + 4]", "ret",
    )  # fmt: skip


def _halt(site: Site) -> ThunkCode:
    """HLT as it stands: with interrupts off it stops for good; VMI's Halt turns them on."""
    return _lines(
        "push eax", "push ecx", f"call {int(VmiCall.GET_INTERRUPT_MASK)}", "mov ecx, eax",
        "jecxz {label}off", _call(site), "pop ecx", "pop eax", "ret",
        "{label}off:", "hlt", "pop ecx", "pop eax", "ret",
    )  # fmt: skip


_REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")

_MAKERS = {
    "in": _port,
    "out": _port,
    "ins": _string_port,
    "outs": _string_port,
    "mov to cr": _to_control,
    "mov from cr": _from_control,
    "mov to dr": _to_debug,
    "mov from dr": _from_debug,
    "invlpg": _invalidate,
    "sldt": _store_selector,
    "str": _store_selector,
    "smsw": _store_selector,
    "mov from cs": _read_segment,
    "mov from ss": _read_segment,
    "push cs": _push_segment,
    "push ss": _push_segment,
    "pushf": _pushf,
    "popf": _popf,
    "hlt": _halt,
}
