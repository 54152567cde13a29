# SPDX-License-Identifier: MIT
"""How does docs/vmi-calls.md come to be? `python -m tools.calls_page` makes it of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vmipatch.choices import Flavor
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.vmi.api13 import DIFFERENT, ROWS_13, SAME, Row13
from vmipatch.vmi.table import ROWS, CallRow

PAGE = Path(__file__).parent.parent / "docs" / "vmi-calls.md"
_HEAD = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- Written by `python -m tools.calls_page` from table.py and api13.py of vmipatch/vmi. -->
# The calls of VMI

API 3.0, numbers 0 to 73, as Linux 2.6.21 to 2.6.36 used it, and our minor version 1 after it.
How the ROM that serves them is built and loaded: [vmi-rom.md](vmi-rom.md).

A call is a near call with arguments in EAX, EDX, ECX and then on the stack, `4(esp)` first; the
caller takes stack arguments off. API 3.0 lets a call spoil what the column says; our entries are
those of API 3.1, and spoil nothing but their results
([decision](decisions/0005-thunks-rely-on-api-3.1.md)).
A hot call is answered without leaving the guest.
What each ROM answers to GetRelocationInfo: `call`, `nop` (the site becomes padding) or `none` (the
native instruction stays). For a PC are the native and the trace ROM, which answer alike.

| no. | call | arguments | results | may spoil | stands for | hot | paravirt | PC | does | source |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_FOOT = """
RDMSR, WRMSR and RDPMC are answered `none`: when one of them faults, the kernel's exception table
must find the instruction's own address. Numbers whose meaning no source tells, and numbers after
the last, are answered `none` too.
A ROM for a PC declines the timer calls, which need a measured clock and memory to keep it in, and
the calls of the local APIC, whose mapping only the kernel knows: its own way is right there.
Stolen time is always 0 and real time the same as available time: the one processor never waits for
another guest. SetInitialAPState is kept for the processor with that APIC number, which begins so at
its STARTUP interrupt (`run --cpus N`); where there is no such processor, the kernel has to give up
by its own time limit.
Page tables and descriptor tables are the guest's own memory, and read as they are: stores take
effect at once, and nothing relies on what a guest tells of them besides (SetPxE's flags, UpdatePxE,
AllocatePage, SetLinearMapping, SetLazyMode).

The page is compared with the ROMs: numbers and answers with what VMI_GetRelocationInfo says,
arguments with what each entry reads and hands over and what the hypervisor then reads, results and
the rest with what has changed (tests/rom, tests/emu/hypervisor/test_call_arguments.py).
"""
_HEAD_13 = """
## API 13

The interface as it was posted in March 2006, a year before Linux had it: `vmipatch rom --api 13`.
The entry of call n is at 32 n in the ROM, and there is no answer that a call is declined: each is
served. Numbers 85 to 87 are those that 13.3 appended.
API 13 lets all but the IF calls, the returns and the ports spoil EAX, ECX, EDX and the flags; our
entries spoil nothing but their results here too.

| no. | call | API 3 | differs in |
| --- | --- | --- | --- |
"""
_DIFFERENT_13 = """
What API 3 has not, or otherwise:

| no. | call | arguments | results | stands for | does |
| --- | --- | --- | --- | --- | --- |
"""
_FOOT_13 = """
On a PC GetCycleFrequency returns 0, which says that there is no timer; the other timer calls do
nothing and return 0 then. RDMSR, WRMSR and RDPMC are the instructions there, and a fault of theirs
is the ROM's, not the site's, as the specification admits of all its calls; in our hypervisor it
arrives at the call. IODelay writes port 0x80 on a PC, and nothing in our hypervisor.
The numbers are those of vmiCalls.h of the patches, the arguments those of their vmi.h, stubs.c and
stubs-asm.S; those of GetPxELong, which no source calls, are by analogy.
"""
_ANSWER = {
    RelocationType.NONE: "none",
    RelocationType.CALL_REL: "call",
    RelocationType.JUMP_REL: "jump",
    RelocationType.NOP: "nop",
}


def page() -> str:
    """The whole page."""
    return (
        _HEAD
        + "".join(f"| {' | '.join(_cells(row))} |\n" for row in ROWS)
        + _FOOT
        + _HEAD_13
        + "".join(f"| {' | '.join(_number_cells(row))} |\n" for row in ROWS_13)
        + _DIFFERENT_13
        + "".join(
            f"| {' | '.join(_row_13_cells(row))} |\n" for row in ROWS_13 if row.call in DIFFERENT
        )
        + _FOOT_13
    )


def _cells(row: CallRow) -> Iterable[str]:
    """One line of the table."""
    yield str(row.call.value)
    yield row.name
    yield _arguments(row)
    yield _results(row)
    yield row.clobbers.value
    yield f"`{row.native}`" if row.native else "-"
    yield "hot" if row.hot else "-"
    yield _ANSWER[relocation_type(row.call, Flavor.PARAVIRT)]
    yield _ANSWER[relocation_type(row.call, Flavor.NATIVE)]
    yield row.does or "not documented"
    yield row.source.value


def _number_cells(row: Row13) -> Iterable[str]:
    """One line of the numbers of API 13."""
    yield str(row.call.value)
    yield row.name
    same = SAME.get(row.call)
    yield "-" if same is None else str(same.value)
    if row.call not in DIFFERENT:
        yield "-"
    else:
        yield "is new" if same is None else "arguments"


def _row_13_cells(row: Row13) -> Iterable[str]:
    """One line of what API 3 has not."""
    yield str(row.call.value)
    yield row.name
    yield _arguments(row)
    yield _results(row)
    yield f"`{row.native}`" if row.native else "-"
    yield row.does


def _arguments(row: CallRow | Row13) -> str:
    return ", ".join(f"`{a.place.value}` {a.meaning}" for a in row.arguments) or "-"


def _results(row: CallRow | Row13) -> str:
    return ", ".join(f"`{name}`" for name in row.results) or "-"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
