# SPDX-License-Identifier: MIT
"""Which sensitive form, if any, the bytes of one instruction have."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

from vmipatch.isa.forms import FORMS, Form, WantedModrm
from vmipatch.vmi.calls import VmiCall

PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
"""Legacy prefixes (Intel SDM volume 2, section 2.1.1)."""

OPERAND_SIZE = 0x66
DS_SEGMENT = 0x3E
SEGMENTS = frozenset(b"\x26\x2e\x36\x3e\x64\x65")
REPEATS = frozenset(b"\xf2\xf3")
"""INS and OUTS take either for REP (Intel SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ)."""

_WORD_CALLS = {
    VmiCall.INL: VmiCall.INW,
    VmiCall.OUTL: VmiCall.OUTW,
    VmiCall.INSL: VmiCall.INSW,
    VmiCall.OUTSL: VmiCall.OUTSW,
}


def _by_opcode() -> dict[bytes, list[Form]]:
    table: dict[bytes, list[Form]] = defaultdict(list)
    for form in FORMS:
        table[form.opcode].append(form)
    return dict(table)


_TABLE = _by_opcode()


def split_prefixes(code: bytes) -> tuple[bytes, bytes]:
    """The legacy prefixes of an instruction, and the rest (opcode first)."""
    at = 0
    while at < len(code) and code[at] in PREFIXES:
        at += 1
    return code[:at], code[at:]


@lru_cache(maxsize=4096)
def classify(code: bytes) -> Form | None:
    """The sensitive form of the instruction `code` (its exact bytes), or None."""
    prefixes, rest = split_prefixes(code)
    for length in (3, 2, 1):
        for form in _TABLE.get(rest[:length], ()):
            if len(rest) >= length and _matches(form, prefixes, rest[length:]):
                return form
    return None


def has_sensitive_opcode(code: bytes) -> bool:
    """Whether the opcode of the instruction `code` has, with some operands, a sensitive form."""
    _, rest = split_prefixes(code)
    return any(rest[:length] in _TABLE for length in (3, 2, 1))


def _matches(form: Form, prefixes: bytes, tail: bytes) -> bool:
    if form.prefix is not None and form.prefix not in prefixes:
        return False
    if any(prefix in prefixes for prefix in form.hidden_by):
        return False
    if form.operand is WantedModrm.NONE:
        return True
    if not tail:
        return False
    mod, reg = tail[0] >> 6, (tail[0] >> 3) & 7
    if form.reg is not None and reg != form.reg:
        return False
    # MOV to and from CR and DR ignore the mod field (Intel SDM, MOV to/from Control Registers).
    if form.operand is WantedModrm.ANY:
        return True
    return (mod == 3) == (form.operand is WantedModrm.REGISTER)


def has_memory_operand(form: Form, code: bytes) -> bool:
    """Whether this instruction of `form` addresses memory through ModRM."""
    if form.operand is WantedModrm.NONE or form.kind in CONTROL_REGISTER_KINDS:
        return False
    _, rest = split_prefixes(code)
    return rest[len(form.opcode)] >> 6 != 3


CONTROL_REGISTER_KINDS = frozenset({"mov to cr", "mov from cr", "mov to dr", "mov from dr"})


def call_of(form: Form, code: bytes) -> VmiCall | None:
    """The VMI call for this instruction: port and string forms follow the operand size."""
    prefixes, _ = split_prefixes(code)
    if form.call in _WORD_CALLS and OPERAND_SIZE in prefixes:
        return _WORD_CALLS[form.call]
    return form.call
