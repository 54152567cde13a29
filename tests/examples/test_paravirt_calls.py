# SPDX-License-Identifier: MIT
"""Does a kernel on a ROM keep its paravirt calls, whatever version's way it is kept from copying?

The example guest copies `cli` over a call, as apply_paravirt of Linux does. A copy is not a site:
at CPL 1 it would be an exit at best. Its variants have the variable of 2.6.22 to 4.15, no variable,
as later ones, and a call of the tracer in front of everything else.
"""

from __future__ import annotations

from functools import cache

import pytest

from examples.guest.build import LINK_VA, sources
from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_OFFSET, link
from examples.guest.source import read_program
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import attach, rewrite
from vmipatch.rom import build_rom
from vmipatch.verify.static import check_static

OPTIONS = MachineOptions(ram_len=64 << 20, limit_ns=300_000_000_000)
TEST = "    cmp dword ptr [noreplace_paravirt], 0\n    jne .Lreplaced\n"
VARIABLE = """OBJECT(noreplace_paravirt, 4)
    .long 0
END(noreplace_paravirt)
"""
TRACER = """
SECTION(.text)

FUNC(__fentry__)
    ret
END(__fentry__)

SECTION(.init.data)

GLOBAL(__start_mcount_loc)
    .long apply_paravirt
GLOBAL(__stop_mcount_loc)
"""
VARIANTS = {
    "variable": {},
    "none": {TEST: "", VARIABLE: ""},
    "traced": {
        TEST: "",
        VARIABLE: TRACER,
        "FUNC(apply_paravirt)": "FUNC(apply_paravirt)\n    call __fentry__",
    },
    "constants": {
        TEST: "",
        VARIABLE: "",
        "start_pv_irq_ops_irq_disable": "some_constant",
        "end_pv_irq_ops_irq_disable": "some_constant_end",
    },
}
"""Replacements in paravirt.S."""
KEPT_IN_MEMORY = {"SECTION(.init.text)": "SECTION(.text)"}
"""As in a kernel that loads modules."""
KEPT = "paravirt: cli if=0 sti if=1"
CLI, CALL, RET = 0xFA, 0xE8, 0xC3


@cache
def guest(variant: str) -> ElfImage:
    files = dict(sources())
    for old, new in {**KEPT_IN_MEMORY, **VARIANTS[variant]}.items():
        assert old in files["paravirt.S"]
        files["paravirt.S"] = files["paravirt.S"].replace(old, new)
    kernel = link(read_program(list(files.items())), LINK_VA)
    return ElfImage.parse(write_elf(kernel, kernel.address("startup_32") - PAGE_OFFSET), variant)


def run(image: ElfImage, mode: Mode) -> tuple[str, Machine]:
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, OPTIONS, build_rom(Flavor.PARAVIRT).data), terminal)
    result = machine.run(Boot(image))
    assert result.ending is Ending.RESET, result.details
    return terminal.heard.decode("ascii"), machine


def code_of(machine: Machine, image: ElfImage, name: str) -> bytes:
    va = image.symbols.address(name)
    assert va is not None
    return machine.memory.read(va - PAGE_OFFSET, 8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_calls_stay_on_a_rom(variant: str) -> None:
    original = guest(variant)
    output = ElfImage.parse(rewrite(original).data, "output")
    assert check_static(original, output).holds
    printed, machine = run(output, Mode.PARAVIRT)
    assert KEPT in printed
    assert code_of(machine, output, "irq_disable_place")[0] != CLI
    patcher = code_of(machine, output, "apply_paravirt")
    if variant == "traced":
        assert (patcher[0], patcher[5]) == (CALL, RET)
    else:
        assert (patcher[0] == RET) == (variant != "variable")


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_rom_the_kernel_copies_as_ever(variant: str) -> None:
    output = ElfImage.parse(rewrite(guest(variant)).data, "output")
    printed, machine = run(output, Mode.NATIVE)
    assert KEPT in printed
    assert CLI in code_of(machine, output, "irq_disable_place")[:6]


@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_that_nothing_stops_are_noticed(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "call_keeper", lambda symbols, tables: None)
    data = rewrite(guest(variant)).data
    verdict = check_static(guest(variant), ElfImage.parse(data, "output"))
    assert {rule.number for rule in verdict.totals} == {"VP071"}
