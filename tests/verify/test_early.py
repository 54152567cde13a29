# SPDX-License-Identifier: MIT
"""Is code that answers interrupts found if the scan takes it for code that runs before paging?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_OBJECT
from vmipatch.scan import before_paging
from vmipatch.verify.static import before_paging as of_the_proof
from vmipatch.verify.static import check_static

VECTOR = "0e000000 60000000 008e0000"
"""The words of struct idt_data before the address: vector 14, __KERNEL_CS, an interrupt gate."""


def kernel(handler: str, table: str) -> SmallKernel:
    """`handler` calls what pushes SS; `table` holds its address; a word, a physical one, too."""
    result = SmallKernel()
    result.text.function("saves_all", "16 58 c3")
    result.text.function(handler, Branch("e8", "saves_all"), "cf")
    data = result.rodata()
    data.label(table, STT_OBJECT, 16)
    data.put(VECTOR, Word(handler), Word(handler, physical=True))
    return result


def broken(kernel: SmallKernel) -> set[str]:
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), ElfImage.parse(done.done.data, "output"))
    return {rule.number for rule in verdict.totals}


@pytest.mark.parametrize(
    ("handler", "table"),
    [
        ("handler", "early_idts"),
        ("handler", "def_idts"),
        ("handler", "apic_idts"),
        ("asm_exc_page_fault", "other"),
        ("page_fault", "other"),
        ("entry_INT80_32", "other"),
        ("asm_sysvec_reboot", "other"),
        ("apic_timer_interrupt", "other"),
    ],
)
def test_interrupt_that_is_taken_for_early_code_is_found(
    handler: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken(kernel(handler, table)) == set()
    take_physical_words_for_entries(monkeypatch)
    assert broken(kernel(handler, table)) == {"VP085"}


def test_what_no_interrupt_reaches_may_run_before_paging(monkeypatch: pytest.MonkeyPatch) -> None:
    take_physical_words_for_entries(monkeypatch)
    assert broken(kernel("other_cpu", "other")) == set()


def test_mistake_of_the_scan_alone_is_a_reason_that_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(before_paging, "_entries", before_paging._physical)
    assert broken(kernel("other_cpu", "other")) == {"VP087"}


def take_physical_words_for_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan and proof make one mistake: a processor starts at every physical address."""
    monkeypatch.setattr(before_paging, "_entries", before_paging._physical)
    monkeypatch.setattr(of_the_proof, "_second_entries", lambda graph: graph.physical())
