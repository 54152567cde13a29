# SPDX-License-Identifier: MIT
"""What does a rewritten kernel do with a module that is loaded? The module loader is played here.

It links the file by its relocations at addresses of its own choice and calls what the callers of
module_finalize call.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

import numpy as np
import pytest

from tests.runtime.bare import CODE_VA, DATA_VA, Bare
from tests.support.smallmodule import BranchTo, SmallModule
from vmipatch.image.module import Module
from vmipatch.image.relocations import R_386_32, RAW_REL
from vmipatch.image.types import SectionKind
from vmipatch.isa.assemble import Assembled
from vmipatch.rewrite.module import rewrite_module
from vmipatch.runtime import RuntimeFacts, build_runtime
from vmipatch.vmi.calls import VmiCall

FINALIZE_VA, PRINTK_VA, ROM_VA = CODE_VA + 0x8000, CODE_VA + 0x8100, CODE_VA + 0x9000
SEEN_VA = CODE_VA + 0x8200
"""Arguments of module_finalize, then how often it and printk were called, and printk's words."""
MODULE_VA, FILE_VA, HEADERS_VA, CORE_VA = (DATA_VA + n * 0x40000 for n in range(4))
ENOEXEC = 8
SERVED_VA = 0x00C0FFEE
"""Where the ROM of these tests says that every call leads, plus the number of the call."""


def kernel(*, is_paravirtual: bool, refused: int = -1, entry: tuple[int, int] = (0, 0)) -> Bare:
    """A rewritten kernel's runtime, with a loader's hook that only takes note.

    The ROM refuses the call `refused`; `entry` is where the runtime believes entry code to be.
    """
    known = {
        "module_finalize": FINALIZE_VA,
        "printk": PRINTK_VA,
        "entry_text": entry[0],
        "entry_text_end": entry[1],
    }
    facts = RuntimeFacts(**{f.name: known.get(f.name, 0) for f in fields(RuntimeFacts)})
    runtime = build_runtime(facts, CODE_VA)
    cpu = Bare(Assembled(CODE_VA, runtime.code, {"vmi_module": runtime.module_entry}))
    seen = struct.pack("<I", SEEN_VA)
    # mov [seen], eax; mov [seen + 4], edx; mov [seen + 8], ecx; inc [seen + 12]; xor eax, eax; ret
    cpu.write(
        FINALIZE_VA,
        b"\xa3" + seen + b"\x89\x15" + struct.pack("<I", SEEN_VA + 4)
        + b"\x89\x0d" + struct.pack("<I", SEEN_VA + 8)
        + b"\xff\x05" + struct.pack("<I", SEEN_VA + 12) + b"\x31\xc0\xc3",
    )  # fmt: skip
    # mov eax, [esp + 4]; mov [seen + 20], eax; mov eax, [esp + 12]; mov [seen + 24], eax; inc; ret
    cpu.write(
        PRINTK_VA,
        b"\x8b\x44\x24\x04\xa3" + struct.pack("<I", SEEN_VA + 20)
        + b"\x8b\x44\x24\x0c\xa3" + struct.pack("<I", SEEN_VA + 24)
        + b"\xff\x05" + struct.pack("<I", SEEN_VA + 16) + b"\xc3",
    )  # fmt: skip
    # get_reloc: mov dl, 0; cmp eax, refused; je out; mov dl, 1; add eax, served; out: ret
    # SET_RUNTIME is really called: its entry is a ret.
    cpu.write(
        ROM_VA + 0x88,
        b"\xb2\x00\x3d" + struct.pack("<i", refused) + b"\x74\x12\xb2\x01\x83\xf8"
        + bytes((VmiCall.SET_RUNTIME,)) + b"\x74\x06\x05" + struct.pack("<I", SERVED_VA)
        + b"\xc3\xb8" + struct.pack("<I", ROM_VA + 0x200) + b"\xc3",
    )  # fmt: skip
    cpu.write(ROM_VA + 0x200, b"\xc3")
    if is_paravirtual:
        # vmi_rom is the word after the jump to start_kernel, which ends vmi_start
        at = runtime.code.index(b"\x61\xe9") + 6
        cpu.words(CODE_VA + at, ROM_VA)
    return cpu


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module in memory: where its sections are, and its symbols."""

    at: dict[str, int]
    symbols: dict[str, int]


def load(cpu: Bare, data: bytes) -> Loaded:
    """Put a module into memory as the kernel's loader does."""
    file = Module.parse(data).file
    cpu.write(FILE_VA, data)
    at, place = {}, CORE_VA
    for section in file.sections:
        if section.is_alloc:
            place += -place % max(section.align, 1)
            at[section.index] = place
            cpu.write(place, file.section_bytes(section))
            place += section.size + 0x123
    value = [
        (at.get(s.section, 0) + s.va if s.section else SERVED_VA) & 0xFFFFFFFF for s in file.symbols
    ]
    for section in file.sections:
        if section.kind is SectionKind.REL and section.info in at:
            raw = np.frombuffer(file.section_bytes(section), RAW_REL)
            for offset, info in zip(raw["offset"].tolist(), raw["info"].tolist(), strict=True):
                spot = at[section.info] + offset
                held = int.from_bytes(cpu.read(spot, 4), "little") + value[info >> 8]
                cpu.words(spot, held - (0 if info & 0xFF == R_386_32 else spot))
    (shoff,) = struct.unpack_from("<I", data, 32)
    for section in file.sections:
        header = bytearray(data[shoff + 40 * section.index :][:40])
        struct.pack_into("<I", header, 12, at.get(section.index, FILE_VA + section.off))
        cpu.write(HEADERS_VA + 40 * section.index, bytes(header))
    cpu.write(MODULE_VA + 12, b"sample\0")
    names = {s.name: value[s.index] for s in file.symbols if s.name}
    return Loaded({file.sections[i].name: va for i, va in at.items()}, names)


def finalize(cpu: Bare) -> int:
    """Call what is called in place of module_finalize; what it returns, as a signed number."""
    kept = {"ebx": 0x11, "esi": 0x22, "edi": 0x33, "ebp": 0x44}
    after = cpu.call("vmi_module", eax=FILE_VA, edx=HEADERS_VA, ecx=MODULE_VA, **kept)
    assert {name: after[name] for name in kept} == kept
    return after["eax"] - ((after["eax"] >> 31) << 32)


def seen(cpu: Bare) -> tuple[int, ...]:
    return struct.unpack("<7I", cpu.read(SEEN_VA, 28))


def sample() -> SmallModule:
    module = SmallModule()
    module.section(".text").function("f", "9c 58 fa", BranchTo("printk"), "c3")
    module.section(".init.text").function("start", "fb 90 c3")
    return module


def led_to(cpu: Bare, va: int) -> int:
    code = cpu.read(va, 5)
    assert code[:1] == b"\xe8"
    return (va + 5 + int.from_bytes(code[1:], "little")) & 0xFFFFFFFF


@pytest.mark.parametrize("ring", [0, 1])
def test_sites_are_patched_after_the_kernels_own_work(ring: int) -> None:
    cpu = kernel(is_paravirtual=True)
    module = load(cpu, rewrite_module(sample().build(), "sample").data)
    if ring:
        cpu.descend()
    assert finalize(cpu) == 0
    f, start = module.symbols["f"], module.symbols["start"]
    thunk_va = module.at[".vmi.text"]
    assert led_to(cpu, f) == thunk_va
    assert led_to(cpu, f + 5) == SERVED_VA + VmiCall.DISABLE_INTERRUPTS
    assert led_to(cpu, start) == SERVED_VA + VmiCall.ENABLE_INTERRUPTS
    thunk = cpu.read(thunk_va, 32)
    aimed = led_to(cpu, thunk_va + thunk.index(b"\xe8"))
    assert aimed == SERVED_VA + VmiCall.GET_INTERRUPT_MASK
    assert seen(cpu)[:5] == (FILE_VA, HEADERS_VA, MODULE_VA, 1, 1)
    assert seen(cpu)[6] == 3  # "module %s, %u sites patched"


@pytest.mark.parametrize("ring", [0, 1])
def test_entry_code_keeps_its_instructions_at_cpl_0(ring: int) -> None:
    """Where it may run with page-table isolation, neither thunks nor ROM are mapped."""
    data = rewrite_module(sample().build(), "sample").data
    f = load(kernel(is_paravirtual=True), data).symbols["f"]
    cpu = kernel(is_paravirtual=True, entry=(f, f + 6))
    start = load(cpu, data).symbols["start"]
    before = cpu.read(f, 10)
    if ring:
        cpu.descend()
    assert finalize(cpu) == 0
    assert (cpu.read(f, 5) == before[:5]) is (ring == 0)
    assert (cpu.read(f + 5, 5) == before[5:]) is (ring == 0), "the last byte of the range"
    assert led_to(cpu, start) == SERVED_VA + VmiCall.ENABLE_INTERRUPTS
    assert seen(cpu)[6] == (3 if ring else 1)


def test_native_kernel_leaves_modules_alone() -> None:
    cpu = kernel(is_paravirtual=False)
    module = load(cpu, rewrite_module(sample().build(), "sample").data)
    before = cpu.read(module.symbols["f"], 16)
    assert finalize(cpu) == 0
    assert cpu.read(module.symbols["f"], 16) == before
    assert seen(cpu)[:5] == (FILE_VA, HEADERS_VA, MODULE_VA, 1, 0)


def test_original_module_is_refused_where_it_would_be_silently_wrong() -> None:
    cpu = kernel(is_paravirtual=True)
    module = load(cpu, sample().build())
    cpu.descend()
    assert finalize(cpu) == -ENOEXEC
    assert seen(cpu)[3:5] == (0, 1)
    assert seen(cpu)[6] == module.symbols["f"]
    assert b"not rewritten" in cpu.read(seen(cpu)[5], 80)


@pytest.mark.parametrize(
    ("is_paravirtual", "ring"), [(False, 0), (True, 0)], ids=["native", "ROM at CPL 0"]
)
def test_original_module_loads_where_its_instructions_do_what_they_say(
    is_paravirtual: bool, ring: int
) -> None:
    cpu = kernel(is_paravirtual=is_paravirtual)
    load(cpu, sample().build())
    assert finalize(cpu) == 0
    assert seen(cpu)[3:5] == (1, 0)


def test_original_module_that_only_traps_loads() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa 0f32 b8 9c9c9c9c c3")
    cpu = kernel(is_paravirtual=True)
    load(cpu, module.build())
    cpu.descend()
    assert finalize(cpu) == 0
    assert seen(cpu)[3:5] == (1, 0)


def test_rewritten_module_is_refused_if_the_rom_does_not_serve_its_thunks() -> None:
    cpu = kernel(is_paravirtual=True, refused=VmiCall.GET_INTERRUPT_MASK)
    load(cpu, rewrite_module(sample().build(), "sample").data)
    cpu.descend()
    assert finalize(cpu) == -ENOEXEC
    assert seen(cpu)[3] == 0
    assert seen(cpu)[6] == VmiCall.GET_INTERRUPT_MASK
    assert b"does not serve call %u" in cpu.read(seen(cpu)[5], 80)


def test_rewritten_module_with_an_unprivileged_rest_is_refused() -> None:
    """A pushf of 16 bits has no thunk: it stays, and the module's table says so."""
    module = sample()
    module.section(".text").function("g", "669c 6658 c3")
    cpu = kernel(is_paravirtual=True)
    loaded = load(cpu, rewrite_module(module.build(), "sample").data)
    cpu.descend()
    assert finalize(cpu) == -ENOEXEC
    assert seen(cpu)[3] == 0
    assert seen(cpu)[6] == loaded.symbols["g"]
