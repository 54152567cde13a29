# SPDX-License-Identifier: MIT
"""Are the system calls in a log of QEMU's those that processes made, and no other entry?"""

from __future__ import annotations

import pytest

from vmipatch.verify.system_calls import NUMBERS
from vmipatch.verify.user_space import Detail
from vmipatch.verify.xen.interrupt_log import CallCounter, calls_of

WRITE, KILL, AGAIN = (NUMBERS[name] for name in ("write", "kill", "restart_syscall"))


def entry(
    eax: int, ebx: int = 0, ecx: int = 0, edx: int = 0, *, vector: int = 0x80, cpl: int = 3,
    software: int = 1, wide: bool = True,
) -> str:  # fmt: skip
    """As QEMU 7.2 writes it for a processor of 64 bits, or of 32."""
    head = (
        f"{77:6d}: v={vector:02x} e=0000 i={software} cpl={cpl} IP=0073:0804812a pc=0804812a "
        f"SP=007b:bfc0ffee env->regs[R_EAX]={eax:08x}\n"
    )
    values = {"AX": eax, "BX": ebx, "CX": ecx, "DX": edx, "SI": 5, "DI": 6, "BP": 7, "SP": 8}
    if wide:
        words = [f"R{name}={value:016x}" for name, value in values.items()]
        lines = [" ".join(words[:4]), " ".join(words[4:])]
        lines += ["R8 =0000000000000000 R9 =0000000000000000", "RIP=000000000804812a RFL=00000202"]
    else:
        words = [f"E{name}={value:08x}" for name, value in values.items()]
        lines = [" ".join(words[:4]), " ".join(words[4:]), "EIP=0804812a EFL=00000202 [-------]"]
    tail = "ES =007b 0000000000000000 ffffffff 00cff300 DPL=3 DS   [-WA]"
    return head + "\n".join([*lines, tail, "CR0=80050033 CR2=b7e1c000"]) + "\n"


def counted(text: str, detail: Detail = Detail.EXACT) -> dict[str, int]:
    counter = CallCounter(detail)
    for line in text.encode().splitlines(keepends=True):
        counter.take(line)
    return dict(counter.calls)


@pytest.mark.parametrize("wide", [True, False], ids=["64 bits", "32 bits"])
def test_calls_have_their_values_and_pointers_only_a_star(wide: bool) -> None:
    text = entry(WRITE, 1, 0x8049000, 14, wide=wide) * 2 + entry(KILL, 0xFFFFFFFF, 9, wide=wide)
    assert counted(text) == {"write(1, *, 14)": 2, "kill(-1, 9)": 1}
    assert counted(text, Detail.TIMED) == {"write(1, *, n)": 2, "kill(-1, 9)": 1}


@pytest.mark.parametrize(
    "other",
    [
        entry(WRITE, vector=0x0E),
        entry(WRITE, cpl=1),
        entry(WRITE, software=0),
        entry(AGAIN),
        "check_exception old: 0xffffffff new 0xe\n",
    ],
    ids=["page fault", "the kernel's", "a device's", "begun again", "another line"],
)
def test_what_is_no_call_of_a_process_does_not_count(other: str) -> None:
    assert counted(other + entry(WRITE, 1, 2, 3) + other) == {"write(1, *, 3)": 1}


def test_values_are_words_of_32_bits() -> None:
    """The upper half of a register is what 64-bit code left there."""
    text = entry(KILL, 4, 9).replace("RBX=00000000", "RBX=deadbeef")
    assert counted(text) == counted(entry(KILL, 4, 9))


def test_calls_of_processes_are_counted_without_their_results() -> None:
    parent = ("fork() = pid", "write(1, *, 3) = 3", "waitpid(-1, *, 0) = pid")
    child = ("fork() = 0", "write(1, *, 3) = -9", "exit(0) = ?")
    assert calls_of([parent, child]) == {
        "fork()": 1, "write(1, *, 3)": 2, "waitpid(-1, *, 0)": 1, "exit(0)": 1,
    }  # fmt: skip
    assert calls_of([("call_900()",)]) == {"call_900()": 1}
