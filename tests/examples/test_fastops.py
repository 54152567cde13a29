# SPDX-License-Identifier: MIT
"""Does a guest that enters functions at base + k * stride, as KVM's emulator does, reach them?

No reference names any entry but the first. The entries of one array are full, with a site in each;
between those of the other there is padding. The guest calls each and prints what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from examples.guest.build import LINK_VA, sources
from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_OFFSET, link
from examples.guest.source import read_program
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rom import build_rom
from vmipatch.scan.code import CodeMap
from vmipatch.verify.static import check_static

OPTIONS = MachineOptions(ram_len=64 << 20, limit_ns=300_000_000_000)
VALUE, SUMMAND = 0x11223344, 0x01F0F0F0
FULL = """
    pushfd
    pop ecx
    lea eax, [eax + {0} + 0x1000000]
    lea eax, [eax - 0x1000000]
    ret
"""
"""All of the 16 bytes, with a site."""
CALLER = """
FUNC(observe_{name})
    xor esi, esi
.Lnext_of_{name}:
    mov ecx, esi
    shl ecx, {shift}
    add ecx, {name}
    mov eax, {value}
    mov edx, {summand}
    call ecx
    push esi
    mov ebx, eax
    REPORT("{name}: %x", ebx)
    pop esi
    inc esi
    cmp esi, {count}
    jb .Lnext_of_{name}
    ret
END(observe_{name})
"""


@dataclass(frozen=True)
class Entries:
    """Functions at equal distances, and what each returns for VALUE and SUMMAND."""

    name: str
    shift: int
    code: tuple[str, ...]
    results: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Their distance in bytes."""
        return 1 << self.shift

    @property
    def source(self) -> str:
        """The functions, the first with the name of all, and who calls each of them."""
        parts = [
            CALLER.format(
                name=self.name, shift=self.shift, value=VALUE, summand=SUMMAND,
                count=len(self.code),
            )
        ]  # fmt: skip
        for number, code in enumerate(self.code):
            label = "" if number else f"GLOBAL({self.name})\n"
            name = f"{self.name}_{number}"
            parts.append(f"FUNC({name}, {self.stride})\n{label}{code}\nEND({name})\n")
        return "".join(parts)

    def distances(self, image: ElfImage) -> list[int]:
        """How far each entry is from the name of all."""
        vas = [image.symbols.address(f"{self.name}_{i}") or 0 for i in range(len(self.code))]
        return [va - (image.symbols.address(self.name) or 0) for va in vas]


SUMMANDS = (0x11, 0x222, 0x3333, 0x44444)
ARRAYS = (
    Entries(
        "em_full", 4, tuple(FULL.format(s) for s in SUMMANDS), tuple(VALUE + s for s in SUMMANDS)
    ),
    Entries(
        "em_add", 3, ("add al, dl\nret", "add ax, dx\nret", "add eax, edx\nret"),
        (0x11223334, 0x11222434, VALUE + SUMMAND),
    ),
)  # fmt: skip
"""The second is FASTOP2 of arch/x86/kvm/emulate.c (Linux 4.17 to 6.1), without quad words."""
each_array = pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.name)


@cache
def guest() -> ElfImage:
    """The example guest with such arrays of functions."""
    files = dict(sources())
    call = "    .long observe_control\n"
    assert call in files["main.S"]
    callers = "".join(f"    .long observe_{array.name}\n" for array in ARRAYS)
    files["main.S"] = files["main.S"].replace(call, call + callers)
    entries = "SECTION(.text)\n" + "".join(array.source for array in ARRAYS)
    program = read_program([*files.items(), ("fastop.S", entries)])
    kernel = link(program, LINK_VA)
    return ElfImage.parse(write_elf(kernel, kernel.address("startup_32") - PAGE_OFFSET), "fastop")


def printed(image: ElfImage, mode: Mode) -> list[str]:
    """The lines about the entries."""
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, OPTIONS, build_rom(Flavor.PARAVIRT).data), terminal)
    result = machine.run(Boot(image))
    assert result.ending is Ending.RESET, result.details
    lines = terminal.heard.decode("ascii").splitlines()
    return [line.strip() for line in lines if line.startswith("em_")]


@cache
def output() -> ElfImage:
    """The guest, rewritten."""
    return ElfImage.parse(rewrite(guest()).data, "output")


@each_array
def test_entries_keep_their_distances(array: Entries) -> None:
    should = [array.stride * number for number in range(len(array.code))]
    assert array.distances(guest()) == should
    assert array.distances(output()) == should


def test_entries_are_proven() -> None:
    verdict = check_static(guest(), output())
    assert verdict.holds, "\n".join(map(str, verdict.findings))


@pytest.mark.parametrize("mode", (Mode.NATIVE, Mode.PARAVIRT))
def test_every_entry_is_reached(mode: Mode) -> None:
    found = [int(line.split()[-1], 16) for line in printed(output(), mode)]
    assert found == [result for array in ARRAYS for result in array.results]


def test_entries_would_have_moved_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding between them gives way to what grows: what is not seen to be an array is refuted."""
    monkeypatch.setattr(CodeMap, "arrays", [])
    moved = ElfImage.parse(rewrite(guest()).data, "moved")
    for array in ARRAYS:
        assert array.distances(moved) != array.distances(guest()), array.name
    found = {rule.number for rule in check_static(guest(), moved).totals}
    assert "VP025" in found
