# SPDX-License-Identifier: MIT
"""Which sensitive instructions does objdump see? Judged from the text it prints.

AT&T syntax as binutils 2.40 prints it. This is the second opinion of the census: it shares neither
decoder nor table with the package.
"""

from __future__ import annotations

import re
import subprocess
from array import array
from dataclasses import dataclass
from pathlib import Path


def _words(text: str) -> list[str]:
    return text.split()


PREFIX_WORDS = frozenset(
    _words("rep repz repnz lock data16 addr16 bnd notrack cs ds es fs gs ss xacquire xrelease")
)
"""Words that objdump prints in front of a mnemonic for prefix bytes."""

WAITING = "9b "
"""Bytes of a line that objdump prints as one: `9b db e3` is fwait and fninit, given as `finit`."""

CLASS_OF = {
    **{name: name for name in _words(
        "lldt ltr lmsw clts invd wbinvd invlpg invpcid hlt rdmsr wrmsr rdpmc rdtsc rdtscp sysexit "
        "rsm xsetbv xsaves xrstors monitor mwait clac stac vmcall vmmcall encls cli sti in out "
        "sldt str smsw cpuid lss lds les lfs lgs lar lsl verr verw arpl int into int1 "
        "sysenter syscall xgetbv wbnoinvd enclv pconfig wrmsrns getsec setssbsy clrssbsy hreset "
        "loadiwkey enqcmds enqcmd tpause umwait tdcall rdpru invlpgb tlbsync pvalidate vmfunc"
    )},
    **{f"{name}l": name for name in ("lgdt", "lidt", "sgdt", "sidt", "sysret")},
    **{f"{name}{size}": name for name in ("ins", "outs") for size in "bwl"},
    **{f"{name}{size}": name for name in ("pushf", "popf", "iret") for size in ("", "w")},
    **dict.fromkeys(("vmlaunch", "vmresume", "vmxoff"), "vmx"),
    **dict.fromkeys(("lret", "lretw"), "retf"),
    "stgi": "svm",
    "wrussd": "wruss",
    "wrssd": "wrss",
    "lcall": "far call",
    "ljmp": "far jmp",
}  # fmt: skip

_LINE = re.compile(r"([0-9a-f]+):\t([0-9a-f ]+?) *(?:\t(.*))?")
_SEGMENTS = frozenset(f"%{name}s" for name in "cdefgs")
_OWN_CLASS = frozenset(("%cs", "%ss"))
"""Selectors that tell the privilege level; the other segment registers are counted together."""
_SPECIAL = re.compile(r"%(cr|db)\d+")


@dataclass(frozen=True, slots=True)
class Disassembly:
    """One section as objdump sees it."""

    starts: array[int]
    """Addresses at which instructions begin, ascending."""
    sensitive: dict[int, str]
    """Address and class of each sensitive instruction."""


def disassemble(vmlinux: Path, section: str) -> Disassembly:
    """Run objdump over one section, zeros included, and classify what it prints."""
    command = ["objdump", "--disassemble", "--wide", "--disassemble-zeroes", "-j", section]
    done = subprocess.run([*command, vmlinux], check=True, capture_output=True, text=True)
    starts, sensitive = array("I"), {}
    for line in done.stdout.splitlines():
        if (match := _LINE.fullmatch(line.lstrip(" "))) is None:
            continue
        va = int(match[1], 16)
        starts.append(va)
        if match[2].startswith(WAITING):
            starts.append(va + 1)
        kind = class_of(match[3] or "")
        if kind is not None:
            sensitive[va] = kind
    return Disassembly(starts, sensitive)


def class_of(text: str) -> str | None:
    """The class of one instruction as printed, None if it is not sensitive."""
    words = text.split("<", maxsplit=1)[0].split("#", maxsplit=1)[0].split()
    while words and words[0] in PREFIX_WORDS:
        words.pop(0)
    if not words:
        return None
    mnemonic, operands = words[0], "".join(words[1:]).split(",")
    if mnemonic in ("push", "pop", "pushw", "popw"):
        return _stack_class(mnemonic[: 4 if mnemonic.startswith("push") else 3], operands[0])
    if mnemonic in ("mov", "movw", "movl"):
        return _move_class(operands[0], operands[-1])
    return CLASS_OF.get(mnemonic)


def _stack_class(verb: str, operand: str) -> str | None:
    if operand not in _SEGMENTS:
        return None
    return f"{verb} {operand[1:]}" if operand in _OWN_CLASS else f"{verb} segment"


def _move_class(source: str, target: str) -> str | None:
    for operand, way in ((source, "from"), (target, "to")):
        if operand in _SEGMENTS:
            name = operand[1:] if operand in _OWN_CLASS else "segment"
            return f"mov {way} {name}"
        if match := _SPECIAL.fullmatch(operand):
            return f"mov {way} {'cr' if match[1] == 'cr' else 'dr'}"
    return None
