# SPDX-License-Identifier: MIT
"""Which assembly makes up a ROM of one flavour? Collected from the `.S` files of this package.

A file holds bodies: `BODY(name, flavour)` begins one, of the call or part `name` for a ROM of that
flavour (`native` also for trace, `any` for all); it lasts to the next. The name in small letters
is its label. Labels that begin with `.L` are local to the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from functools import cache
from importlib import resources

from vmipatch.choices import Flavor
from vmipatch.errors import AssemblyFailed
from vmipatch.rom.entries import (
    SERVED,
    TRACE_PORT,
    Means,
    RelocationType,
    relocation_type,
    served_calls,
)
from vmipatch.rom.header import CODE_ALIGN
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import CYCLES_HZ, SHARED_PA, TIME_PA, TSC_STEP, Hypercall, Shared, Time

_FILES = (
    "start.S", "lookups.S", "interrupts.S", "returns.S", "control.S", "tables.S", "memory.S",
    "hints.S", "time.S", "machine.S", "ports.S", "api13.S",
)  # fmt: skip
_BODY = re.compile(r"BODY\((\w+), (native|paravirt|any)\)")
_LOCAL = re.compile(r"\.L\w+")
CODE_ALIGNED = f".p2align {CODE_ALIGN.bit_length() - 1}, 0xcc"
_TYPE_SHIFT = 24


def label(call: VmiCall) -> str:
    """The label of the entry of `call`."""
    return call.name.lower()


def rom_source(
    flavor: Flavor, *, fail_init: bool, none: Set[VmiCall], nop: Set[VmiCall], jump: Set[VmiCall]
) -> str:
    """The source of a whole ROM after its header.

    `none` and `nop` are calls not to be served, `jump` those to be jumped to.

    Raises AssemblyFailed if the files lack a body that the table of calls promises.
    """
    lines = preamble()
    lines += labelled("init", body("INIT", flavor is Flavor.PARAVIRT and not fail_init))
    lines += entries_source(flavor, none=none, nop=nop, jump=jump)
    return "\n".join([*lines, CODE_ALIGNED])


def entries_source(
    flavor: Flavor,
    *,
    none: Set[VmiCall] = frozenset(),
    nop: Set[VmiCall] = frozenset(),
    jump: Set[VmiCall] = frozenset(),
) -> list[str]:
    """VMI_GetRelocationInfo with its answers, and the entries that they name, as `rom_source`."""
    paravirt = flavor is Flavor.PARAVIRT
    lines = list(_answers_macro(flavor, none, nop, jump))
    lines += labelled("get_reloc", body("GET_RELOC", paravirt))
    if paravirt:
        lines += labelled("lookups", body("LOOKUPS", paravirt))
        lines += labelled("read_clock", body("RDTSC", paravirt))
    for call in served_calls(flavor):
        if call not in none | nop:
            lines += labelled(label(call), _entry(call, flavor))
    return lines


def preamble() -> list[str]:
    """The macros that bodies of every ROM use."""
    return [_read("macros.S"), *_rpl1_macro()]


def constants(shift: int, *, fail_init: bool) -> dict[str, int]:
    """The names that the sources use; the shared pages lie `shift` above their place."""
    names = {f"SHARED_{field.name}": SHARED_PA + shift + field for field in Shared}
    names |= {f"TIME_{field.name}": TIME_PA + shift + field for field in Time}
    names |= {f"INT_{call.name}": int(call) for call in Hypercall}
    return names | {
        "CYCLES_HZ": CYCLES_HZ,
        "CALL_COUNT": max(VmiCall) + 1,
        "CALL_IRET": VmiCall.IRET,
        "CALL_SHUTDOWN": VmiCall.SHUTDOWN,
        "INIT_RESULT": int(fail_init),
        "TRACE_PORT": TRACE_PORT,
        "TSC_STEP": TSC_STEP,
    }


def _entry(call: VmiCall, flavor: Flavor) -> str:
    """The code of one entry."""
    if flavor is Flavor.PARAVIRT:
        if SERVED[call] is Means.HYPERCALL:
            return f"    HYPERCALL {call:d}"
        return body(call.name, SERVED[call] is Means.OWN_CODE)
    trace = f"    TRACE {call:d}\n" if flavor is Flavor.TRACE else ""
    return trace + body(call.name, False)


def labelled(name: str, text: str, align: str = CODE_ALIGNED) -> Iterator[str]:
    """A body after its label, aligned, its local labels made unique."""
    yield align
    yield f"{name}:"
    yield _LOCAL.sub(lambda match: f"{match[0]}_of_{name}", text)


def body(name: str, paravirt: bool) -> str:
    """The code of one call or part. Raises AssemblyFailed if no file has it."""
    bodies = _bodies()
    text = bodies.get((name, "paravirt" if paravirt else "native"), bodies.get((name, "any")))
    if text is None:
        raise AssemblyFailed(f"the ROM has no body {name}", hint="this is a bug of vmipatch")
    return text


@cache
def _bodies() -> dict[tuple[str, str], str]:
    """The text of every body, by name and flavour."""
    bodies: dict[tuple[str, str], str] = {}
    for file in _FILES:
        _, *parts = _BODY.split(_read(file))
        for name, flavor, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            bodies[name, flavor] = text
    return bodies


def _read(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text(encoding="utf-8")


def _answers_macro(
    flavor: Flavor, none: Set[VmiCall], nop: Set[VmiCall], jump: Set[VmiCall]
) -> Iterator[str]:
    """The table of GetRelocationInfo, and after the last call a row for unknown ones."""
    yield ".macro ANSWERS"
    for call in sorted(VmiCall):
        kind = RelocationType.NONE if call in none else relocation_type(call, flavor)
        kind = RelocationType.NOP if call in nop else kind
        has_entry = kind is RelocationType.CALL_REL
        kind = RelocationType.JUMP_REL if has_entry and call in jump else kind
        entry = f"{label(call)} - answers" if has_entry else "0"
        yield f"    .long {entry} + {kind << _TYPE_SHIFT:#x}"
    yield "    .long 0"
    yield ".endm"


def _rpl1_macro() -> Iterator[str]:
    """A selector's low byte with RPL 0 replaced by RPL 1."""
    values = (byte | 1 if byte & 3 == 0 else byte for byte in range(256))
    yield ".macro RPL1_TABLE"
    yield "    .byte " + ", ".join(map(str, values))
    yield ".endm"
