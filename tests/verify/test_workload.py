# SPDX-License-Identifier: MIT
"""Is verify's own file system one that a kernel can start from?"""

from __future__ import annotations

import re
import stat
import struct

from capstone import CS_ARCH_X86, CS_MODE_32, Cs

from tests.support.initramfs import members
from vmipatch.verify import workload
from vmipatch.verify.system_calls import NUMBERS

ALIASES = {"jnz": "jne", "jz": "je", "pushad": "pushal", "popad": "popal"}
SOURCE = workload.source()


def test_archive_holds_init_and_a_console() -> None:
    found = {member.path: member for member in members(workload.initramfs())}
    assert set(found) == {"dev", "dev/console", "dev/null", "init"}
    assert found["init"].data == workload.init_program()
    assert stat.S_ISCHR(found["dev/console"].mode)
    header = workload.initramfs().split(b"dev/console")[0][-110:]
    assert (int(header[78:86], 16), int(header[86:94], 16)) == (5, 1)


def test_program_is_a_static_i386_executable() -> None:
    program = workload.init_program()
    assert program[:5] == b"\x7fELF\x01"
    kind, machine, _, entry = struct.unpack_from("<HHII", program, 16)
    assert (kind, machine) == (2, 3)
    _, off, va, _, file_len, memory_len = struct.unpack_from("<IIIIII", program, 52)
    assert (off, va, file_len) == (0, 0x08048000, len(program))
    assert va < entry < va + file_len < va + memory_len


def test_assembler_took_every_statement_for_what_it_says() -> None:
    """It is known to encode some operands wrongly without a complaint: each has its mnemonic."""
    body, _, _ = SOURCE.partition("\n.p2align 2\nsteps:")
    wanted = [line.split()[0] for line in body.splitlines() if re.match(r" {4}[a-z]", line)]
    code = workload.init_program()[84:]
    found = list(Cs(CS_ARCH_X86, CS_MODE_32).disasm(code, 0))[: len(wanted)]
    assert [ALIASES.get(i.mnemonic, i.mnemonic) for i in found] == [
        ALIASES.get(name, name) for name in wanted
    ]


def test_every_step_is_announced_and_every_call_known() -> None:
    steps = re.findall(r"\.long step_(\w+), name_\1\b", SOURCE)
    assert len(steps) == SOURCE.count(".long step_") > 10
    for step in steps:
        assert f'"{workload.PREFIX}{step}"' in SOURCE
    assert {name for name in re.findall(r"\bsys_(\w+)", SOURCE)} <= set(NUMBERS)
