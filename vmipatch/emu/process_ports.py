# SPDX-License-Identifier: MIT
"""How is an access to a port refused before anything has happened? By a look before it is executed.

Unicorn asks for ports when the instruction is half done: INS has written to memory, and what
follows in the same block is executed in any case. So code of processes is looked at when it is
translated. Each instruction in it that accesses ports is watched from then on: the CPU stops before
it, and it is judged. What is allowed is done here, or, with memory, by the CPU without the watch:
an instruction with a watch may leave the wrong flags (Unicorn restores the kind of flags from
before the watch, and not their content). A kernel may access all ports and is not looked at.
"""

from __future__ import annotations

from typing import Final, Protocol

from vmipatch.emu.clock import NS_PER_BYTE, Clock
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.processor.bits import Flag, HFlag
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.debug_registers import SINGLE_STEP
from vmipatch.emu.processor.engine import Watched
from vmipatch.emu.processor.events import Event, Vector
from vmipatch.emu.processor.paging import Mmu
from vmipatch.isa.port_access import PortAccess, port_access, port_accesses
from vmipatch.isa.trapped import MAX_LEN

MOST_WATCHED: Final = 256
"""Places: more make translation slow, and are looked for anew."""
_USER_RING: Final = 3
_CS32: Final = int(HFlag.CS32)
_TF: Final = int(Flag.TF)


class PortRights(Protocol):
    """Rights, and the accesses of instructions that have them."""

    @property
    def privilege(self) -> Privilege:
        """Of the processor that runs."""

    def read_port(self, port: int, size: int) -> int:
        """`in` of `size` bytes."""

    def write_port(self, port: int, size: int, value: int) -> None:
        """`out` of `size` bytes."""


class ProcessPorts:
    """Stands between processes and ports."""

    def __init__(self, cpu: Cpu, mmu: Mmu, clock: Clock, ports: PortRights) -> None:
        self._cpu = cpu
        self._registers = cpu.registers
        self._mmu = mmu
        self._clock = clock
        self._ports = ports
        self._watched: dict[int, Watched] = {}
        self._found: set[int] = set()
        self._at: PortAccess | None = None
        """Of the instruction that the CPU has stopped before."""
        cpu.on_translated(self._translated)

    def settle(self) -> None:
        """Between two runs of the CPU: do what it has stopped for, watch what was found."""
        if self._found:
            self._watch_found()
        access, self._at = self._at, None
        if access is not None:
            self._execute(access)

    def _watch_found(self) -> None:
        if len(self._watched) + len(self._found) > MOST_WATCHED:
            self._cpu.end_watch(self._watched.values())
            self._watched.clear()
        self._watched |= self._cpu.watch_all(sorted(self._found), self._about_to)
        self._found.clear()

    def _translated(self, va: int, length: int) -> None:
        """A block is about to be executed for the first time."""
        if self._registers.cpl != _USER_RING:
            return
        offsets = port_accesses(self._mmu.peek(va, length), self._bits)
        found = {va + off for off in offsets} - self._watched.keys() - self._found
        if found:
            self._found |= found
            self._cpu.stop()

    def _about_to(self, va: int) -> None:
        """An instruction that was found is about to be executed, or another in its place."""
        registers = self._registers
        if registers.cpl == _USER_RING:
            self._at = port_access(self._mmu.peek(va, MAX_LEN), self._bits)
            if self._at is not None:
                self._cpu.stop()

    def _execute(self, access: PortAccess) -> None:
        registers = self._registers
        port = registers.edx & 0xFFFF if access.port is None else access.port
        if not self._ports.privilege.may_use_port(port, access.size):
            self._ports.privilege.deliver(Event.exception(Vector.PROTECTION))
        elif access.is_string:
            self._step_without_watch()
        else:
            self._move(access, port)
            registers.eip += access.length
            registers.end_shadow()
            if registers.raw_eflags & _TF:
                registers.debug_status |= SINGLE_STEP
                self._ports.privilege.deliver(Event.exception(Vector.DEBUG))

    def _move(self, access: PortAccess, port: int) -> None:
        """IN and OUT."""
        registers, mask = self._registers, (1 << 8 * access.size) - 1
        if access.is_out:
            self._ports.write_port(port, access.size, registers.eax & mask)
        else:
            value = self._ports.read_port(port, access.size)
            registers.eax = registers.eax & ~mask | value & mask
        self._clock.pass_ns(access.length * NS_PER_BYTE)

    def _step_without_watch(self) -> None:
        """Let the CPU execute the block at EIP, then watch its first instruction again."""
        va = self._registers.code_va
        watched = self._watched.pop(va, None)
        if watched is not None:
            self._cpu.end_watch([watched])
            self._found.add(va)
        self._clock.at(self._clock.now_ns, lambda: None)  # one block, then here again

    @property
    def _bits(self) -> int:
        return 32 if self._registers.hflags & _CS32 else 16
