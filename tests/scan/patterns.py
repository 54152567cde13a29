# SPDX-License-Identifier: MIT
"""Which sensitive instructions do the bytes spell? Judged by opcode patterns alone.

The third opinion of the census: no decoder at all, given where instructions begin. Opcodes are
those of the maps in Intel SDM volume 2, appendix A, and AMD's manual, volume 3, appendix A.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable

PREFIX = rb"[\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3]*"


def _set(octets: Iterable[int]) -> bytes:
    return b"[" + b"".join(b"\\x%02x" % octet for octet in octets) + b"]"


def _modrm(*regs: int, memory: bool = True, register: bool = True) -> bytes:
    """A ModRM byte with one of `regs` in its middle field."""
    return _set(
        octet
        for octet in range(256)
        if octet >> 3 & 7 in regs and (register if octet >> 6 == 3 else memory)
    )


def _memory(*regs: int) -> bytes:
    return _modrm(*regs, register=False)


_ALL = range(8)
_GROUP6, _GROUP7, _GROUP9 = rb"\x0f\x00", rb"\x0f\x01", rb"\x0f\xc7"
_BARE = rb"(?<![\x66\xf2\xf3])"
_NARROW, _REPNE, _REP = rb"(?<=\x66)", rb"(?<=\xf2)", rb"(?<=\xf3)"
"""The prefix that compilers write last, right before the opcode; or none of them."""

OPCODES: dict[str, bytes] = {
    "lgdt": _GROUP7 + _memory(2),
    "lidt": _GROUP7 + _memory(3),
    "sgdt": _GROUP7 + _memory(0),
    "sidt": _GROUP7 + _memory(1),
    "smsw": _GROUP7 + _modrm(4),
    "lmsw": _GROUP7 + _modrm(6),
    "invlpg": _GROUP7 + _memory(7),
    "sldt": _GROUP6 + _modrm(0),
    "str": _GROUP6 + _modrm(1),
    "lldt": _GROUP6 + _modrm(2),
    "ltr": _GROUP6 + _modrm(3),
    "verr": _GROUP6 + _modrm(4),
    "verw": _GROUP6 + _modrm(5),
    "xsaves": _GROUP9 + _memory(5),
    "xrstors": _GROUP9 + _memory(3),
    "vmcall": _GROUP7 + _set((0xC1,)),
    "vmx": _GROUP7 + _set((0xC2, 0xC3, 0xC4)),
    "svm": _GROUP7 + _set((0xDC,)),
    "vmmcall": _GROUP7 + _set((0xD9,)),
    "monitor": _GROUP7 + _set((0xC8,)),
    "mwait": _GROUP7 + _set((0xC9,)),
    "clac": _GROUP7 + _set((0xCA,)),
    "stac": _GROUP7 + _set((0xCB,)),
    "encls": _GROUP7 + _set((0xCF,)),
    "xgetbv": _GROUP7 + _set((0xD0,)),
    "xsetbv": _GROUP7 + _set((0xD1,)),
    "rdtscp": _GROUP7 + _set((0xF9,)),
    "mov from cr": rb"\x0f\x20",
    "mov from dr": rb"\x0f\x21",
    "mov to cr": rb"\x0f\x22",
    "mov to dr": rb"\x0f\x23",
    "lar": rb"\x0f\x02",
    "lsl": rb"\x0f\x03",
    "syscall": rb"\x0f\x05",
    "clts": rb"\x0f\x06",
    "sysret": rb"\x0f\x07",
    "invd": rb"\x0f\x08",
    "wbinvd": rb"(?<!\xf3)\x0f\x09",
    "wbnoinvd": _REP + rb"\x0f\x09",
    **{
        name: _BARE + _GROUP7 + _set((third,))
        for name, third in (
            ("enclv", 0xC0), ("pconfig", 0xC5), ("wrmsrns", 0xC6), ("vmfunc", 0xD4),
            ("rdpru", 0xFD), ("invlpgb", 0xFE), ("tlbsync", 0xFF),
        )
    },
    "pvalidate": _REPNE + _GROUP7 + rb"\xff",
    "tdcall": _NARROW + _GROUP7 + rb"\xcc",
    "setssbsy": _REP + _GROUP7 + rb"\xe8",
    "clrssbsy": _REP + rb"\x0f\xae" + _memory(6),
    "tpause": _NARROW + rb"\x0f\xae" + _modrm(6, memory=False),
    "umwait": _REPNE + rb"\x0f\xae" + _modrm(6, memory=False),
    "getsec": _BARE + rb"\x0f\x37",
    "wruss": _NARROW + rb"\x0f\x38\xf5" + _memory(*_ALL),
    "wrss": _BARE + rb"\x0f\x38\xf6" + _memory(*_ALL),
    "loadiwkey": _REP + rb"\x0f\x38\xdc" + _modrm(*_ALL, memory=False),
    "enqcmds": _REP + rb"\x0f\x38\xf8" + _memory(*_ALL),
    "enqcmd": _REPNE + rb"\x0f\x38\xf8" + _memory(*_ALL),
    "hreset": _REP + rb"\x0f\x3a\xf0" + _modrm(0, memory=False),
    "wrmsr": rb"\x0f\x30",
    "rdtsc": rb"\x0f\x31",
    "rdmsr": rb"\x0f\x32",
    "rdpmc": rb"\x0f\x33",
    "sysenter": rb"\x0f\x34",
    "sysexit": rb"\x0f\x35",
    "invpcid": rb"\x0f\x38\x82",
    "cpuid": rb"\x0f\xa2",
    "rsm": rb"\x0f\xaa",
    "lss": rb"\x0f\xb2",
    "lfs": rb"\x0f\xb4",
    "lgs": rb"\x0f\xb5",
    # With a register after them, C4 and C5 begin a VEX prefix.
    "les": rb"\xc4" + _memory(*_ALL),
    "lds": rb"\xc5" + _memory(*_ALL),
    "push segment": rb"[\x06\x1e]|\x0f[\xa0\xa8]",
    "pop segment": rb"[\x07\x1f]|\x0f[\xa1\xa9]",
    "push cs": rb"\x0e",
    "push ss": rb"\x16",
    "pop ss": rb"\x17",
    "mov from cs": rb"\x8c" + _modrm(1),
    "mov from ss": rb"\x8c" + _modrm(2),
    "mov from segment": rb"\x8c" + _modrm(0, 3, 4, 5),
    "mov to ss": rb"\x8e" + _modrm(2),
    "mov to segment": rb"\x8e" + _modrm(0, 3, 4, 5),
    "arpl": rb"\x63",
    "ins": rb"[\x6c\x6d]",
    "outs": rb"[\x6e\x6f]",
    "in": rb"[\xe4\xe5\xec\xed]",
    "out": rb"[\xe6\xe7\xee\xef]",
    "far call": rb"\x9a|\xff" + _memory(3),
    "far jmp": rb"\xea|\xff" + _memory(5),
    "pushf": rb"\x9c",
    "popf": rb"\x9d",
    "retf": rb"[\xca\xcb]",
    "int": rb"\xcd",
    "into": rb"\xce",
    "iret": rb"\xcf",
    "int1": rb"\xf1",
    "hlt": rb"\xf4",
    "cli": rb"\xfa",
    "sti": rb"\xfb",
}  # fmt: skip

_CLASSES = tuple(OPCODES)
_ANY_OPCODE = re.compile(
    PREFIX + b"(?:" + b"|".join(b"(" + code + b")" for code in OPCODES.values()) + b")", re.DOTALL
)


def sensitive_in(code: bytes, va: int, starts: array[int]) -> dict[int, str]:
    """Address and class of each instruction of `code` (linked at `va`) that is sensitive."""
    result = {}
    for start in starts:
        if match := _ANY_OPCODE.match(code, start - va):
            assert match.lastindex is not None
            result[start] = _CLASSES[match.lastindex - 1]
    return result
