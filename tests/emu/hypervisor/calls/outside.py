# SPDX-License-Identifier: MIT
"""What must a call of the guest leave alone? The hypervisor, the emulator, what it did not name.

A look is a dictionary of groups. `MAY_CHANGE` says which groups are a call's own business.
"""

from __future__ import annotations

from typing import Any, Final

from tests.emu.hypervisor.calls.playground import Playground
from vmipatch.emu.clock import CELLS_LEN
from vmipatch.emu.processor.state import StateField
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Time

C = VmiCall
DEVICES: Final = ("pic", "apic", "alarms", "pci", "pit", "uart", "cmos", "reset")
BY_TIME: Final = frozenset({"pic", "apic", "alarms", "pit", "uart"})
"""The devices that go on by themselves once they were set up."""
OF_GUEST: Final = frozenset(
    {"cr0", "cr3", "cr4", "gdtr", "idtr", "ldtr", "task", "debug", "iopl", "mode", *DEVICES}
)
"""State that code of the guest can change without a call: astray, all of it is its own."""
_PORTS: Final = (
    (0x20, 0x22, "pic"), (0xA0, 0xA2, "pic"), (0x40, 0x44, "pit"), (0x61, 0x62, "pit"),
    (0x64, 0x65, "reset"), (0x92, 0x93, "reset"), (0x70, 0x72, "cmos"), (0x3F8, 0x400, "uart"),
    (0xCF8, 0xCFC, "pci"), (0xCF9, 0xCFA, "reset"),
)  # fmt: skip
MAY_CHANGE: Final[dict[VmiCall, frozenset[str]]] = {
    C.SET_GDT: frozenset({"gdtr"}), C.SET_IDT: frozenset({"idtr"}),
    C.SET_LDT: frozenset({"ldtr"}), C.SET_TR: frozenset({"task"}),
    C.SET_CR0: frozenset({"cr0", "mode", "fallbacks", "runtime"}), C.SET_CR3: frozenset({"cr3"}),
    C.SET_CR4: frozenset({"cr4"}), C.CLTS: frozenset({"cr0"}), C.SET_DR: frozenset({"debug"}),
    C.SET_IOPL_MASK: frozenset({"iopl"}), C.APIC_WRITE: frozenset({"apic"}),
    C.SET_ALARM: frozenset({"alarms", "pic", "apic"}), C.CANCEL_ALARM: frozenset({"alarms"}),
    C.SET_FALLBACK: frozenset({"fallbacks"}), C.SET_RUNTIME: frozenset({"runtime"}),
}  # fmt: skip
WALKER_BITS: Final = 0x60
"""Accessed and Dirty, which a page walker may set in whatever the guest calls a page table."""
MSRS: Final = (0x10, 0x1B, 0x8B, 0x174, 0x175, 0x176, 0x179, 0x17A, 0x1A0, 0x277, 0x2FF,
               0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000100, 0xC0000102)  # fmt: skip
_GROWING = (dict, list, set, bytearray)
_SKIPPED = {"_clock", "clock", "_bus", "bus", "machine", "_send", "_reset"}


class Outside:
    """The view on one playground."""

    def __init__(self, playground: Playground) -> None:
        self._playground = playground
        self._msrs = self._read_msrs()
        board = playground.machine.board
        local = board.local[0]
        devices = {name: getattr(board, name, None) or getattr(local, name) for name in DEVICES}
        self._views = {name: _View(device) for name, device in devices.items()}
        self._views["rom"] = _View(playground.privilege._rom)

    def look(self) -> dict[str, object]:
        """Everything by group, cheap enough for each call."""
        machine, privilege = self._playground.machine, self._playground.privilege
        world = privilege.world
        vcpu, registers, cpu = privilege._vcpu, machine.cpu.registers, machine.cpu
        words, counter = cpu._state.words, cpu.counter
        intercepts = StateField.INTERCEPTS >> 2
        found: dict[str, object] = {
            "cr0": registers.cr0, "cr3": registers.cr3, "cr4": registers.cr4,
            "gdtr": registers.gdtr, "idtr": registers.idtr, "ldtr": registers.ldtr,
            "task": vcpu.task, "debug": tuple(vcpu.debug), "iopl": vcpu.iopl,
            "mode": (privilege.is_paravirtual, vcpu.observed, *words[intercepts : intercepts + 3]),
            "watch": (privilege._watch, machine.options.ram_len, machine.options.limit_ns),
            "fallbacks": tuple(world.fallbacks.items()),
            "runtime": repr(vars(world.own_code)) if world.own_code else "",
            "host": (
                words[StateField.VMCB >> 2], words[(StateField.VMCB >> 2) + 1], bytes(cpu._vmcb),
                counter._control.cell_va, counter._control.stop_va, counter._control.privilege_va,
                counter._control.copy_va, counter._page[:],
            ),
        }  # fmt: skip
        return found | {name: view.read() for name, view in self._views.items()}

    def spoilt(self) -> str:
        """Changes in the hypervisor's memory; empty: none."""
        machine, saved = self._playground.machine, self._playground.memory
        octets = machine.memory.octets
        for start, end in ((ROM_PA, SHARED_PA), (TIME_PA + CELLS_LEN, TIME_PA + 0x1000)):
            if not saved.is_in(start, end) and not _only_walked(
                octets[start:end], saved.octets[start:end]
            ):
                return f"memory [{start:#x}, {end:#x})"
        for start, end in ((0xA0000, ROM_PA), (TIME_PA + 0x1000, 0x100000)):
            if not saved.is_in(start, end):
                return f"the hole [{start:#x}, {end:#x})"
        clock = machine.clock
        if not _only_walked(octets[TIME_PA : TIME_PA + Time.EPOCH], clock._octets[: Time.EPOCH]):
            return "the page of the clock"
        return ""

    def spoilt_msrs(self) -> str:
        """The same of the model-specific registers, which takes longer."""
        now = self._read_msrs()
        return "" if now == self._msrs else f"model-specific registers {self._msrs} {now}"

    def _read_msrs(self) -> list[int]:
        cpu = self._playground.machine.cpu
        return [cpu.read_msr(number) for number in MSRS]


def devices_at(port: int, size: int) -> frozenset[str]:
    """Who may notice an access to [port, port + size); a device's interrupt is the PIC's too."""
    touched = {
        name
        for number in range(port, port + size)
        for start, end, name in _PORTS
        if start <= number & 0xFFFF < end
    }
    return frozenset(touched | {"pic"} if touched & {"uart", "pit"} else touched)


def _only_walked(found: Any, wanted: Any) -> bool:
    changed = int.from_bytes(found, "little") ^ int.from_bytes(wanted, "little")
    mask = int.from_bytes(bytes([WALKER_BITS]) * len(wanted), "little")
    return not changed & ~mask


class _View:
    """The plain values that can be reached from an object, found once and read often."""

    def __init__(self, root: object) -> None:
        self._parts: list[dict[str, object]] = []
        self._growing: list[tuple[dict[str, object], str]] = []
        seen: set[int] = set()
        todo: list[object] = [root]
        while todo:
            here = todo.pop()
            is_ours = type(here).__module__.startswith("vmipatch.") and hasattr(here, "__dict__")
            if id(here) in seen or not is_ours:
                continue
            seen.add(id(here))
            part = vars(here)
            self._parts.append(part)
            for name, value in part.items():
                if name not in _SKIPPED:
                    self._growing += [(part, name)] * isinstance(value, _GROWING)
                    todo.append(value)

    def read(self) -> tuple[object, ...]:
        """All of them now; containers by their text, which values alone make up."""
        plain = tuple(tuple(part.values()) for part in self._parts)
        return plain, tuple(repr(part[name]) for part, name in self._growing)
