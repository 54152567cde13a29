# SPDX-License-Identifier: MIT
"""Which kernel executes instructions in random states and prints what came of it?

It is the example guest with another main: for each case it sets flags, registers and the top of
the stack, executes one instruction, and prints registers, flags and stack. The text is the same on
every machine that does the same, be it QEMU at CPL 0 or a hypervisor with a ROM.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from examples.guest.build import LINK_VA, sources
from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_OFFSET, link
from examples.guest.source import read_program

GENERAL = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
WORDS = 6
"""Words on the stack that a case fills and prints."""
FLAGS = 0x244ED5
"""CF, PF, AF, ZF, SF, IF, DF, OF, NT, AC and ID."""
NESTED = 0x4000

MAIN = """
SECTION(.init.text)

FUNC(start_kernel)
    call trap_init
    call cpu_init
    call paging_init
    call irq_init
    jmp rest_init
END(start_kernel)

SECTION(.text)

FUNC(rest_init)
{calls}
    jmp machine_shutdown
END(rest_init)

# Print what a case left. in: its state, the return address on its stack
FUNC(tell_case)
    pop dword ptr [case_return]
    mov [case_state], eax
    mov [case_state + 4], ecx
    mov [case_state + 8], edx
    mov [case_state + 12], ebx
    mov [case_state + 16], esp
    mov [case_state + 20], ebp
    mov [case_state + 24], esi
    mov [case_state + 28], edi
    pushfd
    pop dword ptr [case_state + 32]
    mov esi, esp
    mov esp, [kernel_stack]
    push 0x202
    popfd
    mov eax, [case_state + 32]
    and eax, {flags}
    REPORT("flags %x eax %x ecx %x edx %x ebx %x", eax, [case_state], [case_state + 4], \
[case_state + 8], [case_state + 12])
    mov eax, [case_state + 16]
    sub eax, case_stack
    REPORT("esp+%x ebp %x esi %x edi %x", eax, [case_state + 20], [case_state + 24], \
[case_state + 28])
    REPORT("stack %x %x %x %x %x", [esi], [esi + 4], [esi + 8], [esi + 12], [case_memory])
    jmp dword ptr [case_return]
END(tell_case)

{cases}

SECTION(.bss)

OBJECT(case_stack, 16)
    .skip 512
END(case_stack)

OBJECT(case_state, 4)
    .skip 36
END(case_state)

OBJECT(case_memory, 4)
    .skip 8
END(case_memory)

OBJECT(case_return, 4)
    .skip 4
END(case_return)

OBJECT(kernel_stack, 4)
    .skip 4
END(kernel_stack)
"""

CASES: dict[str, tuple[str, ...]] = {
    "cli": ("cli",),
    "sti": ("sti",),
    "pushf": ("pushfd",),
    **{f"pushf pop {r}": ("pushfd", f"pop {r}") for r in GENERAL},
    "popf": ("popfd",),
    **{f"mov from {cr} to {r}": (f"mov {r}, {cr}",)
       for cr, r in (("cr0", "eax"), ("cr0", "edi"), ("cr3", "ecx"), ("cr4", "ebp"))},
    **{f"mov to and from cr2 by {r}": (f"mov cr2, {r}", f"mov {other}, cr2")
       for r, other in (("eax", "ecx"), ("esi", "eax"))},
    "mov to cr0 and clts": ("mov ebx, cr0", "lea ebx, [ebx + 8]", "mov cr0, ebx", "clts"),
    "mov to cr3": ("mov edx, cr3", "mov cr3, edx"),
    "mov from cs": ("mov ecx, cs",),
    "mov from ss": ("mov eax, ss",),
    "mov from ss to memory": ("mov word ptr [case_memory], ss",),
    "push cs": ("push cs",),
    "push ss": ("push ss",),
    "sldt": ("sldt ebx",),
    "sldt to memory": ("sldt word ptr [case_memory]",),
    "sldt to the stack": ("sldt word ptr [esp + 4]",),
    "str": ("str eax",),
    "sgdt": ("sgdt [case_memory + 2]",),
    "sidt": ("sidt [case_memory + 2]",),
    "mov to and from dr": ("mov dr1, esi", "mov dr2, eax", "mov ecx, dr1", "mov ebx, dr2"),
    "invlpg": ("invlpg [case_memory]",),
    "wbinvd": ("wbinvd",),
    "out": ("out 0x80, al",),
}  # fmt: skip
"""Instructions of the cases by name."""


def build_random_guest(seed: str, states: int) -> bytes:
    """The guest with `states` random cases of each instruction. Raises AssemblyFailed."""
    rng = random.Random(seed)
    functions, calls = [], []
    for number, (name, lines) in enumerate([*CASES.items(), ("iret", ())]):
        body = [
            line
            for state in range(states)
            for line in _case(rng, name, lines, f"behind_case_{number}_{state}")
        ]
        functions += [f"FUNC(cases_{number})", "    mov [kernel_stack], esp", *body, "    ret"]
        functions.append(f"END(cases_{number})")
        calls.append(f"    call cases_{number}")
    text = MAIN.format(calls="\n".join(calls), cases="\n".join(functions), flags=f"{FLAGS:#x}")
    text = text.replace("\\\n", "")
    files = [(name, text if name == "main.S" else source) for name, source in sources()]
    kernel = link(read_program(files), LINK_VA)
    return write_elf(kernel, kernel.address("startup_32") - PAGE_OFFSET)


def _case(rng: random.Random, name: str, lines: tuple[str, ...], label: str) -> Iterator[str]:
    words = [rng.getrandbits(32) for _ in range(WORDS)]
    flags = rng.getrandbits(32) & FLAGS | 2
    if name == "popf":
        words[0] = rng.getrandbits(32) & FLAGS | 2
    yield f'    REPORT("{name}")'
    for index, word in enumerate(words):
        yield f"    mov dword ptr [case_stack + {256 + 4 * index}], {word:#x}"
    if name == "iret":
        flags &= ~NESTED
        yield f"    mov eax, {label}"
        yield "    mov dword ptr [case_stack + 256], eax"
        yield "    mov dword ptr [case_stack + 260], KERNEL_CS"
        loaded = rng.getrandbits(32) & FLAGS & ~NESTED | 2
        yield f"    mov dword ptr [case_stack + 264], {loaded:#x}"
    yield "    mov dword ptr [case_memory], 0xa5a5a5a5"
    yield "    mov esp, case_stack + 256"
    for register in GENERAL:
        yield f"    mov {register}, {rng.getrandbits(32):#x}"
    yield f"    push {flags:#x}"
    yield "    popfd"
    if name == "iret":
        yield "    iretd"
        yield f"{label}:"
    else:
        yield from (f"    {line}" for line in lines)
    yield "    call tell_case"
