# SPDX-License-Identifier: MIT
"""Which kinds of fault does the mutation campaign seed, and where?

Each kind draws its places by random seed over all there are. Those of `faults` are among them.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np

from tests.verify import faults
from tests.verify.faults import FIELDS, RECORD_SECTION, Fault, Victim
from vmipatch.image.relocations import R_386_32, RAW_REL
from vmipatch.image.symbols import STT_FUNC, STT_OBJECT, SYMBOL
from vmipatch.image.types import SectionKind
from vmipatch.tables.table import Form, Table
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import RECORD_LEN

Item = TypeVar("Item")
Kind = Callable[[Victim, random.Random, int], Iterator[Fault]]
PREFIX = 0x3E


def sites_dropped(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A record overwritten by its neighbour: its site is one no more."""
    section = victim.whole.section_by_name[RECORD_SECTION]
    records = victim.records()
    for index in _some(dice, range(1, len(records)), 20 * count):
        if not count or not victim.claim(records[index].native_va):
            continue
        count -= 1
        victim.write(section.va + index * RECORD_LEN, records[index - 1].pack())
        record = records[index]
        yield Fault(record.native_va, record.native_len, "", "record lost")


def one_field_wrong(field: str, victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A record with one field wrong."""
    yield from faults.record_field(victim, dice, field, count)


def prefixes_moved(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Padding prefixes behind the instruction, where they belong to the next one."""
    records = victim.records()
    for record in _some(dice, records, 20 * count):
        code = victim.whole.read(record.native_va, record.native_len)
        core = code.lstrip(bytes((PREFIX,)))
        if len(core) == len(code) or not victim.claim(record.native_va):
            continue
        victim.write(record.native_va, core + code[: len(code) - len(core)])
        yield Fault(record.native_va, len(code) + 1, "", "prefixes of the next instruction")
        count -= 1
        if not count:
            return


def tables_stale(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Words of kernel tables that lead to where their targets were."""
    tables = [t for t in victim.tables if faults.moved_words(victim, t)]
    for table in _some(dice, tables, count):
        yield from faults.table_words_left_behind(victim, dice, table, 1)


def tables_off_by_one(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Words of kernel tables that lead one byte too far."""
    for table, row in _words(victim, dice, count):
        va = int(victim.new([int(row["va"])])[0])
        victim.write(va, struct.pack("<I", (victim.word(va) + 1) & 0xFFFFFFFF))
        yield _word_fault(table, row, va, "one too much")


def tables_swapped(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Two neighbouring words of a table, exchanged."""
    for table, row in _words(victim, dice, 40 * count):
        words = table.words
        at = int(np.searchsorted(words["va"], row["va"]))
        if table.in_code or at + 1 == len(words) or words["role"][at + 1] != row["role"]:
            continue
        vas = victim.new([int(row["va"]), int(words["va"][at + 1])]).tolist()
        first, second = (victim.word(va) for va in vas)
        if first == second:
            continue
        victim.write(vas[0], struct.pack("<I", second))
        victim.write(vas[1], struct.pack("<I", first))
        yield Fault(vas[0], 4, "", f"{table.name.value}: words exchanged")
        count -= 1
        if not count:
            return


def relocations_missing(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Entries of .rel sections that say nothing any more."""
    for off, va, _ in _entries(victim, dice, count):
        victim.data[off + 4] = 0
        yield Fault(va, 4, "", "entry lost")


def relocations_extra(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Entries moved to another word, which has one too many then."""
    for off, va, _ in _entries(victim, dice, count):
        struct.pack_into("<I", victim.data, off, va + 1)
        yield Fault(va + 1, 4, "", "entry of another place")


def words_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Relocated words of data that lead elsewhere."""
    entries = victim.relocated
    data = entries[(entries["kind"] == R_386_32) & (entries["value"] > 0)]
    rows = _some(dice, range(len(data)), 20 * count)
    for row in rows:
        va = int(data["va"][row])
        section = victim.whole.section_at(va)
        if section is None or section.is_exec or not section.has_bytes:
            continue
        if va in victim.table_words or section.name.startswith(".vmi"):
            continue
        victim.write(
            va, struct.pack("<I", (victim.word(va) + dice.choice((-4, 1, 16))) & 0xFFFFFFFF)
        )
        yield Fault(va, 4, "", "word leads elsewhere")
        count -= 1
        if not count:
            return


def data_changed(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A bit of data flipped."""
    sections = [
        s
        for s in victim.whole.allocated_sections
        if s.has_bytes and s.size and not s.is_exec and not s.name.startswith(".vmi")
    ]
    for section in dice.choices(sections, [s.size for s in sections], k=count):
        va = section.va + dice.randrange(section.size)
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield Fault(va - 3, 7, "", f"a byte of {section.name}")


def functions_overlapped(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """The first bytes of a function overwritten by the end of the one in front."""
    entries = victim.whole.symbols.entries
    functions = np.unique(entries["value"][entries["info"] & 15 == STT_FUNC].astype(np.int64))
    text = victim.whole.section_by_name[".text"]
    inside = functions[(functions > text.va + 64) & (functions < text.end_va - 64)].tolist()
    for va in _some(dice, inside, 20 * count):
        was, now = victim.whole.read(va, 8), victim.whole.read(va - 8, 8)
        if was == now or not victim.claim(va) or not victim.claim(va - 1):
            continue
        victim.write(va, now)
        yield Fault(va, 16, "", "overwritten by its neighbour")
        count -= 1
        if not count:
            return


def thunks_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A bit of a thunk flipped: another register, flag or address."""
    code = victim.whole.section_by_name[".vmi.text"]
    end_va = victim.whole.symbols.address("__vmi_start")
    assert end_va is not None
    for va in _some(dice, range(code.va, end_va), count):
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield Fault(code.va, end_va - code.va, ".vmi.text", f"bit of the thunk byte {va:#x}")


def runtimes_patched(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A bit of the runtime flipped."""
    code = victim.whole.section_by_name[".vmi.text"]
    start_va = victim.whole.symbols.address("__vmi_start")
    assert start_va is not None
    for va in _some(dice, range(start_va, code.end_va), count):
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield Fault(start_va, code.end_va - start_va, "", f"bit of the runtime byte {va:#x}")


def thunk_calls_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Another VMI call, or another place, for a call inside a thunk."""
    section = victim.whole.section_by_name[".vmi.thunks"]
    for index in _some(dice, range(section.size // 8), count):
        va = section.va + 8 * index
        target, number = victim.word(va), victim.word(va + 4)
        if dice.randrange(2):
            number = int(dice.choice([c for c in VmiCall if c != number]))
        else:
            target += 1
        victim.write(va, struct.pack("<II", target, number))
        yield Fault(va, 8, ".vmi.text", f"entry {index}: {target:#x}, {number}")


def translations_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A bit of a translation flipped."""
    records = victim.records()
    for record in _some(dice, records, count):
        va = record.translation_va + dice.randrange(record.translation_len)
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield Fault(va, 1, "", f"translation of {record.native_va:#x}")


def fallbacks_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """An entry of the table of native instructions that names another place or byte."""
    section = victim.whole.section_by_name[".vmi.fallback"]
    for index in _some(dice, range(section.size // 8), count):
        va = section.va + 8 * index + dice.choice((0, 4))
        victim.write(va, struct.pack("<I", victim.word(va) ^ 1 << dice.randrange(8)))
        yield Fault(section.va + 8 * index, 8, "", f"entry {index}")


def natives_unlisted(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """An instruction that was left native, gone from the manifest's list."""
    section = victim.whole.section_by_name[".vmi.manifest"]
    text = victim.whole.section_bytes(section)
    listed = [entry["va"] for entry in json.loads(text.rstrip(b"\0"))["native"]]
    for va in _some(dice, listed, count):
        was = f'"va":{va}'.encode()
        off = victim.data.find(was, section.off, section.off + section.size)
        if off >= 0:
            victim.data[off : off + len(was)] = f'"va":{va + 1}'.encode()
            yield Fault(va, 1, "", "no reason")


def symbols_stale(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Symbols with the address that they had."""
    was, now = victim.original.symbols.entries, victim.whole.symbols.entries
    moved = np.flatnonzero(was["value"] != now["value"][: len(was)])
    for index in _some(dice, moved.tolist(), count):
        _symbol(victim, int(index), 4, int(was["value"][index]))
        yield Fault(int(was["value"][index]), 1, "", "address of before")


def symbol_sizes_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """Symbols with another size."""
    entries = victim.whole.symbols.entries[: len(victim.original.symbols)]
    sized = (entries["size"] > 0) & np.isin(entries["info"] & 15, (STT_FUNC, STT_OBJECT))
    for index in _some(dice, np.flatnonzero(sized).tolist(), count):
        _symbol(victim, int(index), 8, int(entries["size"][index]) + dice.choice((1, 4)))
        yield Fault(int(entries["value"][index]), 1, "", "another size")


def edges_broken(victim: Victim, dice: random.Random, count: int) -> Iterator[Fault]:
    """A section header with another address, or size."""
    sections = [s for s in victim.whole.sections if s.is_alloc and s.size > 64 and s.has_bytes]
    (table,) = struct.unpack_from("<I", victim.data, 32)
    for section in _some(dice, sections, count):
        field = dice.choice((12, 20))
        at = table + 40 * section.index + field
        (was,) = struct.unpack_from("<I", victim.data, at)
        struct.pack_into("<I", victim.data, at, was + dice.choice((-16, -1, 4, 16)))
        yield Fault(0, 1 << 32, "", f"header of {section.name}")


TOGETHER: dict[str, Kind] = {
    "site dropped": sites_dropped,
    **{f"record: {field}": partial(one_field_wrong, field) for field in FIELDS},
    "padding byte": faults.paddings_wrong,
    "prefix before the wrong instruction": prefixes_moved,
    "native bit": faults.native_bytes_changed,
    "branch off by one": faults.branches_off_by_one,
    "branch to the old place": faults.branches_left_behind,
    "table word stale": tables_stale,
    "table word off by one": tables_off_by_one,
    "table words exchanged": tables_swapped,
    "relocation missing": relocations_missing,
    "relocation of another place": relocations_extra,
    "relocated word": words_wrong,
    "data bit": data_changed,
    "function overlapped": functions_overlapped,
    "symbol size": symbol_sizes_wrong,
    "translation bit": translations_wrong,
    "native instruction unlisted": natives_unlisted,
    "fallback entry": fallbacks_wrong,
}
"""Kinds whose faults are found at their places, so that many fit into one file."""
ALONE: dict[str, Kind] = {
    "symbol stale": symbols_stale,
    "thunk bit": thunks_wrong,
    "call in a thunk": thunk_calls_wrong,
    "runtime bit": runtimes_patched,
    "section edge": edges_broken,
}
"""Kinds of which a file holds one fault: one spoils what others would be found by."""


def _some(dice: random.Random, items: Iterable[Item], count: int) -> list[Item]:
    every = list(items)
    return dice.sample(every, min(count, len(every)))


def _words(victim: Victim, dice: random.Random, count: int) -> Iterator[tuple[Table, np.void]]:
    tables = [t for t in victim.tables if len(t.words) and not t.in_code]
    for table in dice.choices(tables, k=count):
        yield table, table.words[dice.randrange(len(table.words))]


def _word_fault(table: Table, row: np.void, va: int, what: str) -> Fault:
    lead = 2 * (int(row["form"]) == Form.BRANCH)
    return Fault(va - lead, 4 + lead, "", f"{table.name.value}: {what}")


def _entries(victim: Victim, dice: random.Random, count: int) -> Iterator[tuple[int, int, int]]:
    """Random entries of .rel sections: file offset, place, info."""
    sections = [
        s
        for s in victim.whole.sections
        if s.kind is SectionKind.REL
        and s.size
        and victim.whole.sections[s.info].is_alloc
        and not s.name.startswith(".rel.vmi")
    ]
    for section in dice.choices(sections, [s.size for s in sections], k=40 * count):
        at = section.off + RAW_REL.itemsize * dice.randrange(section.size // RAW_REL.itemsize)
        place, info = struct.unpack_from("<II", victim.result.data, at)
        if info & 0xFF and count:
            count -= 1
            yield at, place, info


def _symbol(victim: Victim, index: int, field: int, value: int) -> None:
    table = next(s for s in victim.whole.sections if s.kind is SectionKind.SYMTAB)
    struct.pack_into("<I", victim.data, table.off + SYMBOL.itemsize * index + field, value)
