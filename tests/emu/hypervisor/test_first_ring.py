# SPDX-License-Identifier: MIT
"""What does a kernel at CPL 1 learn of its ring from the first CS, and when?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, STACK_PA
from tests.emu.ring1_guest import OPTIONS, ModeGuest, paravirt_of
from vmipatch.choices import Mode
from vmipatch.emu.loader import BOOT_CS
from vmipatch.emu.report import Ending
from vmipatch.vmi.shared import ROM_PA

END = "\n cli\n hlt\n"


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT, Mode.AUDIT])
def test_first_code_segment_shows_the_ring_of_a_boot_loader(mode: Mode) -> None:
    source = f"mov eax, cs\n mov dword ptr [{DATA_PA}], eax {END}"
    done = ModeGuest(source, prelude="", mode=mode).run(OPTIONS)
    assert done.result.ending is Ending.HALTED
    assert done.word(0) == BOOT_CS


def test_init_shows_the_ring_to_a_kernel_that_still_has_its_first_code_segment() -> None:
    source = f"""
        mov esp, {STACK_PA}
        mov eax, {ROM_PA + 0x80}
        call eax
        mov dword ptr [{DATA_PA}], eax
        mov eax, cs
        mov dword ptr [{DATA_PA + 4}], eax
        {END}
    """
    done = ModeGuest(source, prelude="", mode=Mode.PARAVIRT).run(OPTIONS)
    assert done.result.ending is Ending.HALTED and paravirt_of(done.machine).is_paravirtual
    assert (done.word(0), done.word(1)) == (0, BOOT_CS | 1)
