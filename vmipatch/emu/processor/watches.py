# SPDX-License-Identifier: MIT
"""Who is called when an instruction is executed, or translated? Hooks of single addresses.

Before an instruction with a watch, Unicorn puts arithmetic flags where none are kept, and later
instructions would add theirs to them: each call forgets those first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vmipatch.emu.processor.engine import Engine, EngineHook, Watched
from vmipatch.emu.processor.registers import RegisterFile


class Watches:
    """The watches of one CPU, whose methods say what they are for."""

    def __init__(
        self, engine: Engine, registers: RegisterFile, fail: Callable[[BaseException], None]
    ) -> None:
        """`fail` gets what a call raises."""
        self._engine = engine
        self._forget_flags = registers.forget_stale_flags
        self._fail = fail

    def range(self, start_va: int, end_va: int, call: Callable[[int], None]) -> Callable[[], None]:
        """As Cpu.watch_range."""
        hook = self._engine.hook(
            EngineHook.CODE, EngineHook.CODE.of(self._called(call)), bounds=(start_va, end_va - 1)
        )
        self._engine.forget_code()
        return lambda: self._engine.unhook(hook)

    def all(self, vas: Sequence[int], call: Callable[[int], None]) -> dict[int, Watched]:
        """As Cpu.watch_all."""
        engine = self._engine
        callback = EngineHook.CODE.of(self._called(call))
        watched = {va: engine.hook(EngineHook.CODE, callback, bounds=(va, va)) for va in vas}
        engine.forget_code()
        return watched

    def end(self, watched: Iterable[Watched]) -> None:
        """As Cpu.end_watch."""
        for hook in watched:
            self._engine.unhook(hook)
        self._engine.forget_code()

    def translated(self, call: Callable[[int, int], None]) -> None:
        """As Cpu.on_translated."""

        def hooked(_uc: int, block: Any, _previous: Any, _data: int) -> None:
            try:
                call(block[0].pc, block[0].size)
            except BaseException as error:
                self._fail(error)

        self._engine.hook(EngineHook.TRANSLATED, EngineHook.TRANSLATED.of(hooked))

    def _called(self, call: Callable[[int], None]) -> Callable[..., None]:
        forget, fail = self._forget_flags, self._fail

        def hooked(_uc: int, va: int, _length: int, _data: int) -> None:
            try:
                forget()
                call(va)
            except BaseException as error:
                fail(error)

        return hooked
