# SPDX-License-Identifier: MIT
"""A machine whose processes do what a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from vmipatch.emu.processor.events import Cause, Event, Vector
from vmipatch.emu.processor.segment import SegmentState
from vmipatch.verify.lockstep.calls import ProcessWatcher
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.lockstep.later import Later
from vmipatch.verify.system_calls import NUMBERS
from vmipatch.verify.user_space import GATE, Detail

MASK32 = 0xFFFFFFFF
BEHIND_VA = 0x08048100
STACK_VA = 0xBFFF0000
TSS_VA = 0xC0001000
PAGE_LEN = 0x1000


class FakeMachine:
    """Machine, CPU, registers, MMU, memory and privilege in one: as much as a watcher looks at."""

    def __init__(self, detail: Detail = Detail.EXACT) -> None:
        self.cpu = self.registers = self.mmu = self.memory = self.privilege = self
        self.task = SegmentState(0x80, TSS_VA, 0x67, 0x8900)
        self.cpl, self.cr3, self.esp, self.eip, self.eax, self.cr2 = 3, 0, 0, 0, 0, 0
        self.kernel_stack = 0
        self.pages: dict[tuple[int, int], int] = {}
        """Physical pages of stacks, by page tables and address."""
        self.bytes: dict[int, bytes] = {}
        self._gprs: dict[int, int] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self.told: list[tuple[str, str]] = []
        self.later = Later(cast(Any, self))
        self.watcher = ProcessWatcher(cast(Any, self), detail, self.emit, self.later)

    def emit(self, kind: EventKind, channel: str, text: str, va: int | None = None) -> None:
        self.told.append((channel, text))

    def gpr(self, number: int) -> int:
        return self._gprs.get(number, 0)

    def watch(self, va: int, call: Callable[[], None]) -> Callable[[], None]:
        assert va not in self._watched
        self._watched[va] = call
        return lambda: None

    def find(self, va: int) -> int | None:
        if va >= TSS_VA:
            return va
        return self.pages.get((self.cr3, va & -PAGE_LEN), 0x500000 + self.cr3 * PAGE_LEN)

    def read_u32(self, pa: int) -> int:
        return self.kernel_stack if pa == TSS_VA + 4 else 0

    def peek(self, va: int, length: int) -> bytes:
        for start_va, data in self.bytes.items():
            if start_va <= va < start_va + len(data):
                return data[va - start_va :][:length]
        return b""

    def run(self, task: int, tables: int | None = None) -> None:
        """Switch to a task, with page tables of the same number unless told otherwise."""
        self.kernel_stack, self.cr3 = 0xC1000000 + task * 0x2000, tables or task

    def call(self, name: str, *arguments: int, esp: int = STACK_VA) -> None:
        self.esp, self.eip, self.eax = esp, BEHIND_VA, NUMBERS[name]
        self._gprs = dict(zip((3, 1, 2, 6, 7, 5), arguments, strict=False))
        self.watcher.on_delivery(Event(GATE, Cause.SOFTWARE))

    def back(self, result: int, esp: int = STACK_VA) -> None:
        self.esp, self.eip, self.eax = esp, BEHIND_VA, result & MASK32
        self._watched[BEHIND_VA]()
        self.later.now()

    def fault(self, va: int) -> None:
        self.cr2 = va
        self.watcher.on_delivery(Event.exception(Vector.PAGE_FAULT, 6))

    def stop(self) -> None:
        """The CPU would come back before the next instruction."""

    def handle(self, signal: int, handler_va: int) -> None:
        """The kernel enters a handler."""
        self.esp, self.eip, self.eax = STACK_VA - 0x100, handler_va, signal
        self.bytes[self.esp] = bytes(4) + signal.to_bytes(4, "little")
        self._watched[handler_va]()

    def of(self, channel: str) -> list[str]:
        return [text for where, text in self.told if where == channel]
