# SPDX-License-Identifier: MIT
"""Is the image for Xen what Xen's builder and the loader read, and is the ROM's table complete?"""

from __future__ import annotations

import itertools
import struct

import pytest
from unicorn.x86_const import UC_X86_REG_EDX

from tests.xen.heads import PAGE_OFFSET, STACK, builder
from tests.xen.rom_model import MEMORY_VA, RomModel
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import SegmentKind
from vmipatch.vmi.calls import VmiCall
from vmipatch.xen.code import rom_code
from vmipatch.xen.compiler import link
from vmipatch.xen.domain0 import build_domain0
from vmipatch.xen.facts import FACT_NAMES, Facts

CALL_RELATIVE, NOT_NEEDED = 1, 3
THUNKS = {
    *(VmiCall[f"{verb}_{what}"] for verb in ("GET", "SET") for what in (
        "CR0", "CR2", "CR3", "CR4", "DR", "GDT", "IDT", "LDT", "TR", "INTERRUPT_MASK",
    )),
    VmiCall.ENABLE_INTERRUPTS, VmiCall.DISABLE_INTERRUPTS, VmiCall.HALT, VmiCall.INVAL_PAGE,
    VmiCall.CPUID, VmiCall.RDTSC, VmiCall.CLTS, VmiCall.WBINVD, VmiCall.IRET,
    VmiCall.SET_FALLBACK, VmiCall.SET_IOPL_MASK, VmiCall.REBOOT, VmiCall.SHUTDOWN,
    *(VmiCall[f"{verb}{suffix}"] for verb in ("IN", "INS", "OUT", "OUTS") for suffix in "BWL"),
}  # fmt: skip
"""The calls of rewritten kernels (docs/vmi-rom.md, "In another hypervisor")."""


def test_rom_serves_what_rewritten_kernels_call_and_nothing_else() -> None:
    code = rom_code()
    start, end = (code.symbols[name] - code.start for name in ("calls_start", "calls_end"))
    rows = list(struct.iter_unpack("<II", code.data[start:end]))
    numbers = [number for number, _ in rows]
    assert len(numbers) == len(set(numbers))
    assert {VmiCall(number) for number in numbers} == THUNKS


def test_relocations_are_answered_from_the_table() -> None:
    rom = RomModel()
    start = rom.va("calls_start")
    entries: dict[int, int] = dict(
        struct.iter_unpack("<II", bytes(rom.uc.mem_read(start, 8 * len(THUNKS))))
    )
    for call in VmiCall:
        eax = rom.call("get_relocation", call)
        edx = rom.uc.reg_read(UC_X86_REG_EDX)
        if call is VmiCall.IO_DELAY:
            assert edx == NOT_NEEDED
        else:
            assert (edx, eax) == ((CALL_RELATIVE, entries[call]) if call in THUNKS else (0, 0))


def test_image_has_the_kernel_the_rom_and_every_word_that_moves() -> None:
    made = build_domain0(builder().image(), [STACK], initrd=b"disk", append="quiet")
    image = ElfImage.parse(made.data, "domain 0")
    assert {s.va - s.pa for s in image.segments} == {PAGE_OFFSET}
    loads = list(image.loads)
    assert all(a.pa + a.mem_len <= b.pa for a, b in itertools.pairwise(loads))
    assert loads[-1].pa + loads[-1].mem_len == 128 * 2**20 - 4 * 2**20 + 0x10000
    (note,) = (s for s in image.segments if s.kind is SegmentKind.NOTE)
    assert b"xen-3.0" in made.data[note.off : note.off + note.file_len]

    def at(va: int, length: int) -> bytes:
        load = next(s for s in loads if s.va <= va < s.va + s.mem_len)
        return made.data[load.off + va - load.va :][:length]

    rom = rom_code()
    facts_va = rom.symbols["facts"] + PAGE_OFFSET
    words = struct.unpack(f"<{len(FACT_NAMES)}I", at(facts_va, 4 * len(FACT_NAMES)))
    facts = Facts(*words)
    assert at(facts.initrd, facts.initrd_len) == b"disk"
    assert at(facts.append, 6) == b"quiet\0"
    moves = struct.unpack(f"<{facts.moves_len}I", at(facts.moves, 4 * facts.moves_len))
    assert list(moves) == sorted(set(moves))
    assert STACK in moves
    assert {facts_va + off for off in facts.moving()} < set(moves)
    assert made.moves == 1 + len(rom.moving) + len(facts.moving())


def test_linking_again_gives_the_same_bytes() -> None:
    assert link() == link()


def test_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="more than 64 MiB"):
        build_domain0(builder().image(), [], initrd=bytes(61 << 20), memory=64)


def test_same_arguments_give_the_same_bytes() -> None:
    first, second = (build_domain0(builder().image(), [STACK]).data for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([0x8000, 0x8001, 0x9000], "not one block"),
        ([0x36800 + i for i in range(0x1000)], "higher than Linux maps"),
        ([0x100000 + i for i in range(0x1000)], "higher than Linux maps"),
        ([0x8000], "dom0_mem"),
    ],
    ids=["scattered", "above the split", "above 4 GiB", "too little"],
)
def test_loader_says_in_one_line_why_the_kernel_cannot_start(
    frames: list[int], complaint: str
) -> None:
    rom = RomModel()
    start_va, list_va = MEMORY_VA + 0x300000, MEMORY_VA + 0x310000
    count = len(frames) if len(frames) < 3 else 0x1000
    listed = (frames + [0] * 0x1000)[:0x1000]
    rom.uc.mem_write(list_va, struct.pack("<4096I", *listed))
    rom.uc.mem_write(start_va + 32, struct.pack("<11I", count, *[0] * 8, list_va, 0))
    rom.call("place", start_va)
    assert rom.ended
    lines = [line for line in rom.told.splitlines() if "stop:" in line]
    assert len(lines) == 1
    assert complaint in lines[0]
