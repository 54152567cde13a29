# SPDX-License-Identifier: MIT
"""Does the machine suit the code that unpacks bzImages up to 2.6.19?

Source: arch/i386/boot/compressed/{misc.c,head.S} of Linux 2.6.19: it asks two fields of the boot
parameters for memory, writes what it unpacks from 0x2000 up to the boot parameters, and then jumps
through the boot loader's code segment.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.emu.test_run_command import REBOOT, SAY_OK, write_old_bzimage
from vmipatch.cli.run import run_command
from vmipatch.errors import ExitCode

DECOMPRESSOR = f"""
    movzx eax, word ptr [esi + 0x2]     # RM_EXT_MEM_K
    mov ebx, [esi + 0x1e0]              # RM_ALT_MEM_K
    cmp ebx, eax
    ja alternative
    mov ebx, eax
alternative:
    cmp ebx, 3 * 1024                   # "Less than 4MB of memory"
    jb failed
    mov edi, 0x2000                     # LOW_BUFFER_START
    mov ecx, esi
    sub ecx, edi
    mov al, 0x55
    cld
    rep stosb
    mov eax, 0x18                       # __BOOT_DS
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x1f0000
    push 0x10                           # __BOOT_CS
    mov eax, kernel
    push eax
    retf
kernel:
    {SAY_OK}
failed:
    {REBOOT}
"""


@pytest.mark.parametrize("mode", ["--native", "--trap", "--paravirt"])
@pytest.mark.parametrize("memory", ["5", "64", "256"])
def test_old_decompressor_finds_memory_and_keeps_its_segments(
    tmp_path: Path, mode: str, memory: str
) -> None:
    kernel = write_old_bzimage(tmp_path / "vmlinuz", DECOMPRESSOR)
    done = CliRunner().invoke(run_command, [str(kernel), mode, "--memory", memory, "--limit", "1"])
    assert (done.exit_code, done.stdout) == (ExitCode.SUCCESS, "OK"), done.stderr
