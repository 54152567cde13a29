# SPDX-License-Identifier: MIT
"""Does every symbol keep its name and address when functions change places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.elfbuilder import RODATA, TEXT, ElfBuilder
from tests.support.kallsyms import Style, parts
from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.tables.emit import store
from vmipatch.tables.find import find_all
from vmipatch.tables.kallsyms_order import emit_in_order
from vmipatch.tables.table import U32, TableName, stay

Kernel = Callable[[str], Path]


class Reader:
    """kallsyms read one symbol at a time, the way the kernel does (kernel/kallsyms.c)."""

    def __init__(self, image: ElfImage) -> None:
        self.image = image
        self.count = self.word("kallsyms_num_syms")

    def va(self, name: str) -> int:
        va = self.image.symbols.address(name)
        assert va is not None
        return va

    def word(self, name: str, index: int = 0, size: int = 4) -> int:
        return int.from_bytes(self.image.read(self.va(name) + size * index, size), "little")

    def address(self, index: int) -> int:
        if self.image.symbols.address("kallsyms_addresses") is not None:
            return self.word("kallsyms_addresses", index)
        word = self.word("kallsyms_offsets", index)
        if self.image.symbols.address("kallsyms_relative_base") is None:
            return (self.va("kallsyms_offsets") + 4 * index + word) & 0xFFFFFFFF
        return self.word("kallsyms_relative_base") + word

    def token(self, index: int) -> str:
        start = self.va("kallsyms_token_table") + self.word("kallsyms_token_index", index, 2)
        text = self.image.read(start, 64)
        return text[: text.index(0)].decode()

    def names(self) -> list[str]:
        """Every name with its type letter in front, in the order of the addresses."""
        tokens = [self.token(index) for index in range(256)]
        at = self.image.offset_of(self.va("kallsyms_names"))
        data, result = self.image.data, []
        for index in range(self.count):
            if index % 256 == 0:
                marker = self.word("kallsyms_markers", index // 256)
                assert at == self.image.offset_of(self.va("kallsyms_names")) + marker
            length, at = data[at], at + 1
            if length & 0x80:
                length, at = (length & 0x7F) | data[at] << 7, at + 1
            result.append("".join(tokens[octet] for octet in data[at : at + length]))
            at += length
        return result

    def sequence(self, index: int) -> int:
        va = self.va("kallsyms_seqs_of_names") + 3 * index
        return int.from_bytes(self.image.read(va, 3), "big")


def shuffled(va: U32) -> U32:
    """The map that exchanges the two halves of 1 MiB of code, behind the first page."""
    offset = va - np.uint32(0xC1001000)
    half = np.uint32(0x80000)
    return np.where(offset < half, va + half, np.where(offset < 2 * half, va - half, va))


@pytest.mark.kernels
def test_symbols_of_a_kernel_keep_names_and_addresses(kernel: Kernel) -> None:
    keeps_names_and_addresses(ElfImage.parse(kernel("tiny").read_bytes()))


@pytest.mark.parametrize("style", Style)
def test_symbols_keep_names_and_addresses(style: Style) -> None:
    """In each way in which kernels have stored kallsyms: half of the symbols change places."""
    builder = ElfBuilder()
    builder.section(".text", 0xC1000000, bytes(0x110000), TEXT)
    symbols = [(0xC1001000 + 0xC00 * (i // 2), f"t{'name' * (i % 40)}{i}") for i in range(700)]
    stored = parts([(0xC1000000, "T_text"), *symbols], style, 0xC1200000)
    builder.section(".rodata", 0xC1200000, b"".join(data for _, _, data in stored), RODATA)
    for name, va, _ in stored:
        builder.symbol(name, va)
    keeps_names_and_addresses(builder.image())


def keeps_names_and_addresses(image: ElfImage) -> None:
    table = find_all(image).get(TableName.KALLSYMS)
    assert table is not None
    emission = emit_in_order(image, table, shuffled)
    assert emission.reordered
    assert len(np.unique(emission.va)) == len(emission.va)
    data = bytearray(image.data)
    store(data, np.array([image.offset_of(va) for va in emission.va.tolist()]), emission.value)
    old, new = Reader(image), Reader(ElfImage.parse(bytes(data)))
    names, new_names = old.names(), new.names()
    addresses = [new.address(index) for index in range(new.count)]
    assert addresses == sorted(addresses)
    moved = shuffled(np.array([old.address(i) for i in range(old.count)], np.uint32)).tolist()
    assert sorted(zip(new_names, addresses, strict=True)) == sorted(zip(names, moved, strict=True))
    if image.symbols.address("kallsyms_seqs_of_names") is None:
        return
    sequence = [new.sequence(index) for index in range(new.count)]
    by_name = [new_names[index][1:] for index in sequence]
    assert by_name == [names[old.sequence(index)][1:] for index in range(old.count)]
    assert sorted(sequence) == list(range(new.count))


@pytest.mark.kernels
def test_order_that_holds_needs_words_of_addresses_only(kernel: Kernel) -> None:
    image = ElfImage.parse(kernel("tiny").read_bytes())
    table = find_all(image).get(TableName.KALLSYMS)
    assert table is not None
    emission = emit_in_order(image, table, stay)
    assert not emission.reordered
    assert np.array_equal(emission.va, table.words["va"])


@pytest.mark.kernels
def test_damaged_sequence_numbers_are_refused(kernel: Kernel) -> None:
    image = ElfImage.parse(kernel("tiny").read_bytes())
    data = bytearray(image.data)
    va = image.symbols.address("kallsyms_seqs_of_names")
    assert va is not None
    data[image.offset_of(va)] ^= 0xFF
    damaged = ElfImage.parse(bytes(data))
    table = find_all(damaged).get(TableName.KALLSYMS)
    assert table is not None
    with pytest.raises(MalformedTable, match="kallsyms_seqs_of_names is missing or damaged"):
        emit_in_order(damaged, table, shuffled)
