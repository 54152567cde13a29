# SPDX-License-Identifier: MIT
"""Which system calls does a log of QEMU's (`-d int`) tell of?

QEMU writes each interrupt with the registers before it: a head such as
`  12: v=80 e=0000 i=1 cpl=3 IP=0073:...`, then lines of `EAX=...` or, of a 64-bit processor,
`RAX=...` (QEMU 7.2, target/i386/tcg/seg_helper.c and cpu-dump.c). Neither kernel nor Xen has a hand
in it. Whose call it is the log does not say, for on Xen all processes have the same CR3; nor what
the kernel answered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from vmipatch.verify.system_calls import NUMBERS
from vmipatch.verify.user_space import GATE, Detail, Trace, shown

HEAD: Final = re.compile(rb" *\d+: v=([0-9a-f]{2}) e=[0-9a-f]{4} i=(\d) cpl=(\d) ")
_REGISTER: Final = re.compile(rb"[ER](AX|BX|CX|DX|SI|DI|BP|SP|IP) ?= ?([0-9a-f]{8,16})")
_ARGUMENTS: Final = (b"BX", b"CX", b"DX", b"SI", b"DI", b"BP")
_AGAIN: Final = NUMBERS["restart_syscall"]
_LOW: Final = 0xFFFFFFFF
_LINES: Final = 3
"""After a head: the lines with general registers and EIP."""


class CallCounter:
    """Counts the calls in a log that comes line by line, by name and plain values."""

    def __init__(self, detail: Detail) -> None:
        self.calls: Counter[str] = Counter()
        self._detail = detail
        self._lines: list[bytes] = []
        self._wanted = 0

    def take(self, line: bytes) -> None:
        """The next line of the log."""
        if self._wanted:
            self._lines.append(line)
            self._wanted -= 1
            if not self._wanted:
                self._count(b" ".join(self._lines))
            return
        head = HEAD.match(line)
        if head is not None and int(head[1], 16) == GATE and head[2] == b"1" and head[3] == b"3":
            self._lines, self._wanted = [], _LINES

    def _count(self, text: bytes) -> None:
        registers = {name: int(value, 16) & _LOW for name, value in _REGISTER.findall(text)}
        number = registers[b"AX"]
        if number != _AGAIN:  # the kernel lets an interrupted call begin again
            arguments = tuple(registers[name] for name in _ARGUMENTS)
            self.calls[shown(number, arguments, self._detail)] += 1


def calls_of(traces: Iterable[Trace]) -> Counter[str]:
    """The calls of all processes, by name and plain values: what a log can tell of them."""
    return Counter(call for trace in traces for call in _made(trace))


def _made(trace: Sequence[str]) -> Iterable[str]:
    """The calls that a process made; how it was born is one of its parent's."""
    for text in trace:
        call, _, result = text.rpartition(" = ")
        if call and (call, result) != ("fork()", "0"):
            yield call
        elif not call:
            yield text
