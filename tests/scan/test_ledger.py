# SPDX-License-Identifier: MIT
"""Is every byte of code accounted for by evidence, and every sensitive decoding in one bucket?"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conftest import KernelFinder
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32
from vmipatch.image.symbols import STT_FUNC
from vmipatch.scan import ScanResult, scan
from vmipatch.scan.decodings import Bucket, Decodings, decodings_of
from vmipatch.scan.ledger import ByteClass, LedgerReason, SectionAccount

TEXT_VA, DATA_VA = 0xC1000000, 0xC1010000


def scanned(code: str, *, word: int = TEXT_VA, relocated: bool = True) -> ScanResult:
    """A kernel whose .text is one function of these bytes, and a word that leads into it."""
    builder = ElfBuilder(entry=0x01000000)
    octets = bytes.fromhex(code)
    builder.section(".text", TEXT_VA, octets, TEXT)
    builder.section(".data", DATA_VA, word.to_bytes(4, "little"))
    builder.symbol("f", TEXT_VA, size=len(octets), kind=STT_FUNC)
    if relocated:
        builder.relocation(DATA_VA, R_386_32, "f")
    return scan(builder.image())


def account(code: str, *, word: int = TEXT_VA, relocated: bool = True) -> SectionAccount:
    return scanned(code, word=word, relocated=relocated).ledger.sections[0]


def decodings(code: str) -> Decodings:
    return decodings_of(scanned(code))[0]


def test_code_after_a_branch_is_proven_by_it() -> None:
    # jz +2; ret; int3; target: inc eax; ret
    found = account("7402c3cc40c3")
    assert found.evidence == {
        LedgerReason.SYMBOL: 2,
        LedgerReason.BRANCH: 1,
        LedgerReason.FLOW: 2,
        LedgerReason.IDLE: 1,
    }


def test_code_that_only_the_sweep_found_is_not_code() -> None:
    found = account("c340c3")
    assert found.evidence == {LedgerReason.SYMBOL: 1, LedgerReason.NEVER_RUN: 2}
    assert found.intervals[1] == (TEXT_VA + 1, TEXT_VA + 3, ByteClass.DATA)


def test_without_relocations_it_is_unknown() -> None:
    found = account("c340c3", relocated=False)
    assert found.evidence == {LedgerReason.SYMBOL: 1, LedgerReason.NOT_LED_TO: 2}


def test_relocated_word_proves_a_boundary() -> None:
    found = account("c340c3", word=TEXT_VA + 1)
    assert found.evidence == {
        LedgerReason.SYMBOL: 1,
        LedgerReason.REFERENCE: 1,
        LedgerReason.FLOW: 1,
    }


def test_branch_into_an_instruction_disputes_it() -> None:
    # jz into the mov's constant
    found = account("7401b8c3c3c3c3c3")
    assert found.evidence[LedgerReason.DISPUTED] == 5


def test_bytes_that_decode_as_nothing_are_unknown_where_code_leads() -> None:
    assert account("400f04c3").evidence[LedgerReason.NO_INSTRUCTION] == 1


def test_each_decoding_is_in_the_bucket_of_its_place() -> None:
    # cli; invd; mov eax, 0xfafafafa; ret, and after it cli; ret that nothing refers to
    found = decodings("fa0f08b8fafafafac3" + "e4c3")
    counts = {bucket: sum(kinds.values()) for bucket, kinds in found.counts.items()}
    assert counts == {
        Bucket.REWRITTEN: 1,
        Bucket.NATIVE_TRAPPING: 2,
        Bucket.NATIVE_UNPRIVILEGED: 0,
        Bucket.NO_BOUNDARY: 4,
        Bucket.DATA: 0,
        Bucket.UNKNOWN: 0,
    }
    assert found.counts[Bucket.NO_BOUNDARY] == {"cli": 4}


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_nothing_of_a_kernel_is_unknown(kernel: KernelFinder, name: str) -> None:
    result = scan(ElfImage.parse(kernel(name).read_bytes(), name))
    assert result.ledger.unknown_len == 0
    every: Counter[Bucket] = Counter()
    for found in decodings_of(result):
        for bucket, kinds in found.counts.items():
            every[bucket] += sum(kinds.values())
    assert every[Bucket.UNKNOWN] == 0
    sites = result.ledger.dispositions()
    assert every[Bucket.REWRITTEN] >= sum(
        count for (kind, _), count in sites.items() if kind.value == "rewritten"
    )
    for section in result.ledger.sections:
        never = section.evidence.get(LedgerReason.NEVER_RUN, 0)
        assert never <= section.length(ByteClass.CODE) // 100, "most code is reached"
