# SPDX-License-Identifier: MIT
"""Which i386 instructions are sensitive, how they behave at CPL 1, and what VMI offers for them.

This table is the only place that knows. A form is told from others by its bytes: opcode,
ModRM.reg, and whether ModRM names a register or memory; decoders supply boundaries only.
Sources: Intel SDM volume 2 (the instruction's own page) and volume 3, section 5.9 (privileged
instructions) and 19.5 (IOPL); AMD64 manual, volume 3, for AMD's; J. Robin and C. Irvine, "Analysis
of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor" (2000) for the
unprivileged ones; call names from the VMI specification of March 2006.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmipatch.vmi.calls import VmiCall


class AtCpl1(enum.Enum):
    """The instruction's behaviour at CPL 1, IOPL 0."""

    FAULTS = "faults"  # privileged: #GP, or #UD for those that know CPL 0 only
    FAULTS_BY_IOPL = "faults while CPL > IOPL"
    DIFFERS = "silently differs"  # the classic hole: no fault, another result
    FAULTS_BY_SELECTOR = "faults for a selector with RPL 0"
    DIFFERS_BY_DESCRIPTOR = "differs for a descriptor of DPL 0"
    SAME = "harmless"  # executes; nothing a kernel relies on changes


class FormTreatment(enum.Enum):
    """The rewriter's treatment of a site of the form."""

    CALL = "call"  # widened, annotated with a VMI call
    NATIVE = "native"  # stays: a trap serves it (no call exists, or none can stand there)
    LEAVE = "leave"  # stays: it may run at CPL 1 as it is


class WantedModrm(enum.Enum):
    """Which ModRM the form wants."""

    NONE = "no ModRM"
    ANY = "register or memory"
    REGISTER = "register"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Form:
    """One row: a sensitive instruction form."""

    name: str
    """As the manual writes it, unique."""
    kind: str
    """The class it is counted under in a census."""
    opcode: bytes
    """Opcode bytes after all prefixes."""
    operand: WantedModrm
    reg: int | None
    """Required ModRM.reg, None for any."""
    prefix: int | None
    """Mandatory prefix byte (66, F2, F3), None if prefixes do not select the form."""
    at_cpl1: AtCpl1
    treatment: FormTreatment
    call: VmiCall | None
    hidden_by: bytes = b""
    """Prefixes that make another instruction of it."""

    @property
    def is_unprivileged(self) -> bool:
        """Whether the form, left as it is, would be silently wrong at CPL 1."""
        return self.at_cpl1 is AtCpl1.DIFFERS

    @property
    def has_string_source(self) -> bool:
        """Whether a segment prefix would change what is read (OUTS)."""
        return self.opcode in (b"\x6e", b"\x6f")


def _form(
    name: str,
    kind: str,
    code: str,
    at_cpl1: AtCpl1,
    call: VmiCall | None = None,
    *,
    treatment: FormTreatment | None = None,
    operand: WantedModrm = WantedModrm.NONE,
    reg: int | None = None,
    prefix: int | None = None,
    hidden_by: bytes = b"",
) -> Form:
    if treatment is None:
        treatment = FormTreatment.CALL if call is not None else FormTreatment.NATIVE
    opcode = bytes.fromhex(code)
    return Form(name, kind, opcode, operand, reg, prefix, at_cpl1, treatment, call, hidden_by)


_F, _I, _D = AtCpl1.FAULTS, AtCpl1.FAULTS_BY_IOPL, AtCpl1.DIFFERS
_S, _H = AtCpl1.FAULTS_BY_SELECTOR, AtCpl1.SAME
_Y = AtCpl1.DIFFERS_BY_DESCRIPTOR
_NATIVE, _LEAVE = FormTreatment.NATIVE, FormTreatment.LEAVE
_ANY, _REG, _MEM = WantedModrm.ANY, WantedModrm.REGISTER, WantedModrm.MEMORY
_C = VmiCall
_NP = b"\x66\xf2\xf3"
"""Of opcodes that the manual writes with NP: any of these makes another instruction, or none."""

_PRIVILEGED = (
    _form("lgdt m", "lgdt", "0f01", _F, _C.SET_GDT, operand=_MEM, reg=2),
    _form("lidt m", "lidt", "0f01", _F, _C.SET_IDT, operand=_MEM, reg=3),
    _form("lldt r/m16", "lldt", "0f00", _F, _C.SET_LDT, operand=_ANY, reg=2),
    _form("ltr r/m16", "ltr", "0f00", _F, _C.SET_TR, operand=_ANY, reg=3),
    _form("mov cr0, r32", "mov to cr", "0f22", _F, _C.SET_CR0, operand=_ANY, reg=0),
    _form("mov cr2, r32", "mov to cr", "0f22", _F, _C.SET_CR2, operand=_ANY, reg=2),
    _form("mov cr3, r32", "mov to cr", "0f22", _F, _C.SET_CR3, operand=_ANY, reg=3),
    _form("mov cr4, r32", "mov to cr", "0f22", _F, _C.SET_CR4, operand=_ANY, reg=4),
    _form("mov r32, cr0", "mov from cr", "0f20", _F, _C.GET_CR0, operand=_ANY, reg=0),
    _form("mov r32, cr2", "mov from cr", "0f20", _F, _C.GET_CR2, operand=_ANY, reg=2),
    _form("mov r32, cr3", "mov from cr", "0f20", _F, _C.GET_CR3, operand=_ANY, reg=3),
    _form("mov r32, cr4", "mov from cr", "0f20", _F, _C.GET_CR4, operand=_ANY, reg=4),
    _form("mov dr, r32", "mov to dr", "0f23", _F, _C.SET_DR, operand=_ANY),
    _form("mov r32, dr", "mov from dr", "0f21", _F, _C.GET_DR, operand=_ANY),
    _form("clts", "clts", "0f06", _F, _C.CLTS),
    _form("lmsw r/m16", "lmsw", "0f01", _F, _C.SET_CR0, operand=_ANY, reg=6),
    _form("invd", "invd", "0f08", _F),
    _form("wbinvd", "wbinvd", "0f09", _F, _C.WBINVD, hidden_by=b"\xf3"),
    _form("wbnoinvd", "wbnoinvd", "0f09", _F, prefix=0xF3),
    _form("invlpg m", "invlpg", "0f01", _F, _C.INVAL_PAGE, operand=_MEM, reg=7),
    _form("invpcid r32, m128", "invpcid", "0f3882", _F, operand=_MEM, prefix=0x66),
    _form("hlt", "hlt", "f4", _F, _C.HALT),
    _form("rdmsr", "rdmsr", "0f32", _F, _C.RDMSR),
    _form("wrmsr", "wrmsr", "0f30", _F, _C.WRMSR),
    _form("rdpmc", "rdpmc", "0f33", _F, _C.RDPMC),
    _form("rdtsc", "rdtsc", "0f31", _F, _C.RDTSC),
    _form("rdtscp", "rdtscp", "0f01f9", _F),
    _form("sysexit", "sysexit", "0f35", _F, _C.SYSEXIT),
    _form("sysret", "sysret", "0f07", _F),
    _form("rsm", "rsm", "0faa", _F),
    _form("xsetbv", "xsetbv", "0f01d1", _F, _C.SET_XCR),
    _form("xsaves m", "xsaves", "0fc7", _F, operand=_MEM, reg=5),
    _form("xrstors m", "xrstors", "0fc7", _F, operand=_MEM, reg=3),
    _form("monitor", "monitor", "0f01c8", _F),
    _form("mwait", "mwait", "0f01c9", _F),
    _form("clac", "clac", "0f01ca", _F),
    _form("stac", "stac", "0f01cb", _F),
    _form("vmcall", "vmcall", "0f01c1", _H, treatment=_LEAVE),
    _form("vmlaunch", "vmx", "0f01c2", _F),
    _form("vmresume", "vmx", "0f01c3", _F),
    _form("vmxoff", "vmx", "0f01c4", _F),
    _form("vmmcall", "vmmcall", "0f01d9", _H, treatment=_LEAVE),
    *(
        _form(name, "svm", code, _F)
        for name, code in (
            ("vmrun", "0f01d8"),
            ("vmload", "0f01da"),
            ("vmsave", "0f01db"),
            ("stgi", "0f01dc"),
            ("clgi", "0f01dd"),
            ("skinit", "0f01de"),
            ("invlpga", "0f01df"),
        )
    ),
    _form("vmptrld m, vmclear m, vmxon m", "vmx", "0fc7", _F, operand=_MEM, reg=6),
    _form("vmptrst m", "vmx", "0fc7", _F, operand=_MEM, reg=7),
    # After 66 and F2 they are extrq and insertq (AMD64 manual, volume 4).
    _form("vmread r/m32, r32", "vmx", "0f78", _F, operand=_ANY, hidden_by=b"\x66\xf2"),
    _form("vmwrite r32, r/m32", "vmx", "0f79", _F, operand=_ANY, hidden_by=b"\x66\xf2"),
    _form("invept r32, m128", "vmx", "0f3880", _F, operand=_MEM, prefix=0x66),
    _form("invvpid r32, m128", "vmx", "0f3881", _F, operand=_MEM, prefix=0x66),
    _form("encls", "encls", "0f01cf", _F),
)

_NEWER = (
    # Intel SDM volume 2, each on its own page; volume 3, chapter 7 (SMX), for GETSEC.
    _form("enclv", "enclv", "0f01c0", _F, hidden_by=_NP),
    _form("pconfig", "pconfig", "0f01c5", _F, hidden_by=_NP),
    _form("wrmsrns", "wrmsrns", "0f01c6", _F, hidden_by=_NP),
    _form("getsec", "getsec", "0f37", _F, hidden_by=_NP),
    _form("setssbsy", "setssbsy", "0f01e8", _F, prefix=0xF3),
    _form("clrssbsy m64", "clrssbsy", "0fae", _F, operand=_MEM, reg=6, prefix=0xF3),
    _form("wruss m32, r32", "wruss", "0f38f5", _F, operand=_MEM, prefix=0x66),
    _form("hreset imm8", "hreset", "0f3af0", _F, operand=_REG, reg=0, prefix=0xF3),
    _form("loadiwkey xmm, xmm", "loadiwkey", "0f38dc", _F, operand=_REG, prefix=0xF3),
    _form("enqcmds r32, m512", "enqcmds", "0f38f8", _F, operand=_MEM, prefix=0xF3),
    # As RDTSC: with CR4.TSD.
    _form(
        "tpause r32", "tpause", "0fae", _F, operand=_REG, reg=6, prefix=0x66, hidden_by=b"\xf2\xf3"
    ),
    _form("umwait r32", "umwait", "0fae", _F, operand=_REG, reg=6, prefix=0xF2),
    # Intel TDX Module ABI specification: #GP above CPL 0, and #UD outside of a trust domain.
    _form("tdcall", "tdcall", "0f01cc", _F, prefix=0x66),
    # AMD64 manual, volume 3, chapter 4 (system instructions); RDPRU as RDTSC: with CR4.TSD.
    _form("rdpru", "rdpru", "0f01fd", _F, hidden_by=_NP),
    _form("invlpgb", "invlpgb", "0f01fe", _F, hidden_by=_NP),
    _form("tlbsync", "tlbsync", "0f01ff", _F, hidden_by=_NP),
    _form("pvalidate", "pvalidate", "0f01ff", _F, prefix=0xF2),
)
"""None has a VMI call. Not encodable in 32-bit mode, and so no rows: RDMSRLIST and WRMSRLIST,
SWAPGS, LKGS, ERETS and ERETU, SEAMCALL and its kin, RMPADJUST, RMPUPDATE, RMPQUERY and PSMASH, and
the user interrupts (CLUI, STUI, TESTUI, UIRET, SENDUIPI)."""

_IOPL_SENSITIVE = (
    _form("cli", "cli", "fa", _I, _C.DISABLE_INTERRUPTS),
    _form("sti", "sti", "fb", _I, _C.ENABLE_INTERRUPTS),
    _form("in al, imm8", "in", "e4", _I, _C.INB),
    _form("in eax, imm8", "in", "e5", _I, _C.INL),
    _form("in al, dx", "in", "ec", _I, _C.INB),
    _form("in eax, dx", "in", "ed", _I, _C.INL),
    _form("out imm8, al", "out", "e6", _I, _C.OUTB),
    _form("out imm8, eax", "out", "e7", _I, _C.OUTL),
    _form("out dx, al", "out", "ee", _I, _C.OUTB),
    _form("out dx, eax", "out", "ef", _I, _C.OUTL),
    _form("insb", "ins", "6c", _I, _C.INSB),
    _form("insd", "ins", "6d", _I, _C.INSL),
    _form("outsb", "outs", "6e", _I, _C.OUTSB),
    _form("outsd", "outs", "6f", _I, _C.OUTSL),
)

_UNPRIVILEGED = (
    _form("pushf", "pushf", "9c", _D, _C.GET_INTERRUPT_MASK),
    _form("popf", "popf", "9d", _D, _C.SET_INTERRUPT_MASK),
    _form("iret", "iret", "cf", _D, _C.IRET),
    _form("sgdt m", "sgdt", "0f01", _D, _C.GET_GDT, operand=_MEM, reg=0),
    _form("sidt m", "sidt", "0f01", _D, _C.GET_IDT, operand=_MEM, reg=1),
    _form("sldt r/m16", "sldt", "0f00", _D, _C.GET_LDT, operand=_ANY, reg=0),
    _form("str r/m16", "str", "0f00", _D, _C.GET_TR, operand=_ANY, reg=1),
    _form("smsw r/m16", "smsw", "0f01", _D, _C.GET_CR0, operand=_ANY, reg=4),
    _form("mov r/m16, cs", "mov from cs", "8c", _D, _C.READ_SEGMENT, operand=_ANY, reg=1),
    _form("mov r/m16, ss", "mov from ss", "8c", _D, _C.READ_SEGMENT, operand=_ANY, reg=2),
    _form("push cs", "push cs", "0e", _D, _C.READ_SEGMENT),
    _form("push ss", "push ss", "16", _D, _C.READ_SEGMENT),
    _form("cpuid", "cpuid", "0fa2", _D, _C.CPUID),
)

_SELECTORS = (
    # Loads of SS open an interrupt shadow and change the stack a call would use: never calls.
    _form("mov ss, r/m16", "mov to ss", "8e", _S, operand=_ANY, reg=2),
    _form("pop ss", "pop ss", "17", _S),
    _form("lss r32, m", "lss", "0fb2", _S, operand=_MEM),
    _form("retf", "retf", "cb", _S),
    _form("retf imm16", "retf", "ca", _S),
    _form("jmp far ptr", "far jmp", "ea", _H, treatment=_LEAVE),
    _form("call far ptr", "far call", "9a", _H, treatment=_LEAVE),
    _form("call far m", "far call", "ff", _H, treatment=_LEAVE, operand=_MEM, reg=3),
    _form("jmp far m", "far jmp", "ff", _H, treatment=_LEAVE, operand=_MEM, reg=5),
)

_HARMLESS = (
    *(
        _form(
            f"mov {name}, r/m16",
            "mov to segment",
            "8e",
            _H,
            treatment=_LEAVE,
            operand=_ANY,
            reg=reg,
        )
        for reg, name in ((0, "es"), (3, "ds"), (4, "fs"), (5, "gs"))
    ),
    *(
        _form(
            f"mov r/m16, {name}",
            "mov from segment",
            "8c",
            _H,
            treatment=_LEAVE,
            operand=_ANY,
            reg=reg,
        )
        for reg, name in ((0, "es"), (3, "ds"), (4, "fs"), (5, "gs"))
    ),
    *(
        _form(f"{verb} {name}", f"{verb} segment", code, _H, treatment=_LEAVE)
        for verb, name, code in (
            ("push", "es", "06"),
            ("push", "ds", "1e"),
            ("push", "fs", "0fa0"),
            ("push", "gs", "0fa8"),
            ("pop", "es", "07"),
            ("pop", "ds", "1f"),
            ("pop", "fs", "0fa1"),
            ("pop", "gs", "0fa9"),
        )
    ),
    *(
        _form(f"{name} r32, m", name, code, _H, treatment=_LEAVE, operand=_MEM)
        for name, code in (("lds", "c5"), ("les", "c4"), ("lfs", "0fb4"), ("lgs", "0fb5"))
    ),
    # A descriptor of DPL 0 is out of their reach at CPL 1. Those that a kernel loads get DPL 1 when
    # it does (decision 0008); Linux asks for those of users, and VERW empties buffers.
    _form("lar r32, r/m16", "lar", "0f02", _Y, treatment=_LEAVE, operand=_ANY),
    _form("lsl r32, r/m16", "lsl", "0f03", _Y, treatment=_LEAVE, operand=_ANY),
    _form("verr r/m16", "verr", "0f00", _Y, treatment=_LEAVE, operand=_ANY, reg=4),
    _form("verw r/m16", "verw", "0f00", _Y, treatment=_LEAVE, operand=_ANY, reg=5),
    _form("arpl r/m16, r16", "arpl", "63", _H, treatment=_LEAVE, operand=_ANY),
    _form("int imm8", "int", "cd", _H, treatment=_LEAVE),
    _form("into", "into", "ce", _H, treatment=_LEAVE),
    _form("int1", "int1", "f1", _H, treatment=_LEAVE),
    _form("sysenter", "sysenter", "0f34", _H, treatment=_LEAVE),
    _form("syscall", "syscall", "0f05", _H, treatment=_LEAVE),
    _form("xgetbv", "xgetbv", "0f01d0", _H, treatment=_LEAVE),
    _form("vmfunc", "vmfunc", "0f01d4", _H, treatment=_LEAVE, hidden_by=_NP),
    # Any CPL below 3 is a supervisor to them (Intel SDM volume 1, section 17.2.3; volume 2).
    _form("wrss m32, r32", "wrss", "0f38f6", _H, treatment=_LEAVE, operand=_MEM, hidden_by=_NP),
    _form("enqcmd r32, m512", "enqcmd", "0f38f8", _H, treatment=_LEAVE, operand=_MEM, prefix=0xF2),
)

FORMS: tuple[Form, ...] = (
    *_PRIVILEGED, *_NEWER, *_IOPL_SENSITIVE, *_UNPRIVILEGED, *_SELECTORS, *_HARMLESS
)  # fmt: skip
"""Every sensitive form. INT3 is not among them: in a kernel it is padding and patching."""
