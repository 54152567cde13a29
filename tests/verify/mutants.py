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

import numpy as np

from tests.verify import faults
from tests.verify import mutants_of_added as added
from tests.verify.faults import FIELDS, SeededFault, Victim, some
from vmipatch.image.relocations import R_386_32, RAW_REL
from vmipatch.image.symbols import STT_FUNC, STT_OBJECT, SYMBOL
from vmipatch.image.types import Section, SectionKind
from vmipatch.tables.table import Table, WordForm

Kind = Callable[[Victim, random.Random, int], Iterator[SeededFault]]
PREFIX = 0x3E
E_SHOFF, SECTION_HEADER_LEN = 0x20, 40
SH_ADDR, SH_OFFSET, SH_SIZE = 12, 16, 20
"""Fields of an ELF header and of a section header (System V ABI, chapter 4)."""


def sites_dropped(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A record overwritten by its neighbour: its site is one no more."""
    placed = victim.placed_records()
    for at in some(dice, range(1, len(placed)), 20 * count):
        (name, *_, before), (name_too, _, va, record) = placed[at - 1 : at + 1]
        if not count or name != name_too or not victim.claim(record.native_va):
            continue
        count -= 1
        victim.write(va, before.pack())
        yield SeededFault(record.native_va, record.native_len, "", "record lost")


def one_field_wrong(
    field: str, victim: Victim, dice: random.Random, count: int
) -> Iterator[SeededFault]:
    """A record with one field wrong."""
    yield from faults.record_field(victim, dice, field, count)


def prefixes_moved(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Padding prefixes after the instruction, where they belong to the next one."""
    for *_, record in some(dice, victim.placed_records(), 20 * count):
        code = victim.whole.read(record.native_va, record.native_len)
        core = code.lstrip(bytes((PREFIX,)))
        if len(core) == len(code) or not victim.claim(record.native_va):
            continue
        victim.write(record.native_va, core + code[: len(code) - len(core)])
        yield SeededFault(record.native_va, len(code) + 1, "", "prefixes of the next instruction")
        count -= 1
        if not count:
            return


def tables_stale(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Words of each kernel table that still have their old targets."""
    for table in victim.tables:
        for row in _rows(victim, dice, table, faults.moved_words(victim, table), count):
            yield faults.word_left_behind(victim, table, row)


def tables_off_by_one(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Words of each kernel table that lead one byte too far."""
    for table in victim.tables:
        if table.in_code:
            continue
        for row in _rows(victim, dice, table, range(len(table.words)), count):
            va = int(victim.new([int(row["va"])])[0])
            victim.write(va, struct.pack("<I", (victim.word(va) + 1) & 0xFFFFFFFF))
            lead = 2 * (int(row["form"]) == WordForm.BRANCH)
            name = table.name.value
            yield SeededFault(va - lead, 4 + lead, "", f"{name}: one too much", name)


def tables_swapped(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Two words of the same role in each kernel table, exchanged: neighbours but for others."""
    for table in victim.tables:
        words, name = table.words, table.name.value
        if table.in_code:
            continue
        left = max(1, count // len(victim.tables))
        news = victim.new(words["va"]).tolist()
        for index in some(dice, range(len(words)), 20 * left):
            alike = np.flatnonzero(words["role"][index + 1 :] == words["role"][index])
            if not left or not len(alike):
                continue
            vas = news[index], news[index + 1 + int(alike[0])]
            first, second = (victim.word(va) for va in vas)
            if first == second or not all(victim.claim_name(f"{va:#x}") for va in vas):
                continue
            left -= 1
            victim.write(vas[0], struct.pack("<I", second))
            victim.write(vas[1], struct.pack("<I", first))
            yield SeededFault(vas[0], 4, "", f"{name}: words exchanged", name)


def relocations_missing(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Entries of .rel sections that say nothing any more."""
    for off, va, _ in _entries(victim, dice, count):
        victim.data[off + 4] = 0
        yield SeededFault(va, 4, "", "entry lost")


def relocations_extra(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Entries moved to another word, which has one too many then."""
    for off, va, _ in _entries(victim, dice, count):
        struct.pack_into("<I", victim.data, off, va + 1)
        yield SeededFault(va + 1, 4, "", "entry of another place")


def relocations_added(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """One entry more, for a word that has none."""
    taken = set(victim.relocated["va"].tolist())
    (table,) = struct.unpack_from("<I", victim.data, E_SHOFF)
    for off, place, info in _entries(victim, dice, count):
        section = next(s for s in _relocation_sections(victim) if s.off <= off < s.off + s.size)
        target = victim.whole.sections[section.info]
        va = place
        while any(at in taken for at in range(va - 3, va + 4)):
            va = target.va + dice.randrange(target.size - 4)
        longer = victim.whole.section_bytes(section) + struct.pack("<II", va, info)
        header = table + SECTION_HEADER_LEN * section.index
        struct.pack_into("<II", victim.data, header + SH_OFFSET, len(victim.data), len(longer))
        victim.data += longer
        yield SeededFault(va, 4, "", f"one entry more in {section.name}")


def words_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Relocated words of data that lead elsewhere."""
    entries = victim.relocated
    data = entries[(entries["kind"] == R_386_32) & (entries["value"] > 0)]
    rows = some(dice, range(len(data)), 20 * count)
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
        yield SeededFault(va, 4, "", "word leads elsewhere")
        count -= 1
        if not count:
            return


def data_changed(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A bit of data flipped."""
    sections = [
        s
        for s in victim.whole.allocated_sections
        if s.has_bytes and s.size and not s.is_exec and not s.name.startswith(".vmi")
    ]
    for section in dice.choices(sections, [s.size for s in sections], k=count):
        va = section.va + dice.randrange(section.size)
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield SeededFault(va - 3, 7, "", f"a byte of {section.name}")


def functions_overlapped(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """The first bytes of a function overwritten by the end of the one in front."""
    entries = victim.whole.symbols.entries
    functions = np.unique(entries["value"][entries["info"] & 15 == STT_FUNC].astype(np.int64))
    text = victim.whole.section_by_name[".text"]
    inside = functions[(functions > text.va + 64) & (functions < text.end_va - 64)].tolist()
    for va in some(dice, inside, 20 * count):
        was, now = victim.whole.read(va, 8), victim.whole.read(va - 8, 8)
        if was == now or not victim.claim(va) or not victim.claim(va - 1):
            continue
        victim.write(va, now)
        yield SeededFault(va, 16, "", "overwritten by its neighbour")
        count -= 1
        if not count:
            return


def natives_unlisted(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """An instruction that was left native, gone from the manifest's list."""
    section = victim.whole.section_by_name[".vmi.manifest"]
    text = victim.whole.section_bytes(section)
    listed = [entry["va"] for entry in json.loads(text.rstrip(b"\0"))["native"]]
    for va in some(dice, listed, count):
        was = f'"va":{va}'.encode()
        off = victim.data.find(was, section.off, section.off + section.size)
        if off >= 0:
            victim.data[off : off + len(was)] = f'"va":{va + 1}'.encode()
            yield SeededFault(va, 1, "", "no reason")


def symbols_stale(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Symbols with the address that they had."""
    was, now = victim.original.symbols.entries, victim.whole.symbols.entries
    moved = np.flatnonzero(was["value"] != now["value"][: len(was)])
    for index in some(dice, moved.tolist(), count):
        _symbol(victim, int(index), 4, int(was["value"][index]))
        yield SeededFault(int(was["value"][index]), 1, "", "address of before")


def symbol_sizes_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Symbols with another size."""
    entries = victim.whole.symbols.entries[: len(victim.original.symbols)]
    sized = (entries["size"] > 0) & np.isin(entries["info"] & 15, (STT_FUNC, STT_OBJECT))
    for index in some(dice, np.flatnonzero(sized).tolist(), count):
        _symbol(victim, int(index), 8, int(entries["size"][index]) + dice.choice((1, 4)))
        yield SeededFault(int(entries["value"][index]), 1, "", "another size")


def edges_broken(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A section header with another address, or size."""
    sections = [s for s in victim.whole.sections if s.is_alloc and s.size > 64 and s.has_bytes]
    (table,) = struct.unpack_from("<I", victim.data, E_SHOFF)
    for section in some(dice, sections, count):
        at = table + SECTION_HEADER_LEN * section.index + dice.choice((SH_ADDR, SH_SIZE))
        (was,) = struct.unpack_from("<I", victim.data, at)
        struct.pack_into("<I", victim.data, at, was + dice.choice((-16, -1, 4, 16)))
        yield SeededFault(0, 1 << 32, "", f"header of {section.name}")


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
    "native instruction unlisted": natives_unlisted,
    "fallback entry": added.fallbacks_wrong,
    "thunk bit": added.thunks_wrong,
    "thunk clobbers a register": added.thunks_clobber_registers,
    "thunk clobbers a flag": added.thunks_clobber_flags,
}
"""Kinds whose faults are found at their places, so that many fit into one file."""
THUNKS = frozenset({"thunk bit", "thunk clobbers a register", "thunk clobbers a flag"})
"""Those of them that are found at every site of a thunk: they have a file to themselves, where no
other fault at such a site could seem to be found."""
ALONE: dict[str, Kind] = {
    "symbol stale": symbols_stale,
    "translation bit": added.translations_wrong,
    "relocation added": relocations_added,
    "call in a thunk": added.thunk_calls_wrong,
    "runtime bit": added.runtimes_patched,
    "section edge": edges_broken,
}
"""Kinds of which a file holds one fault: one spoils what others would be found by, or is found at
so many places (a translation that a thousand sites share) that theirs would seem to be found."""


def _rows(
    victim: Victim, dice: random.Random, table: Table, indices: Iterable[int], count: int
) -> Iterator[np.void]:
    """Words of one table, its share of `count` but at least one, which no other fault is in."""
    left = max(1, count // len(victim.tables))
    for index in some(dice, indices, 4 * left):
        row = table.words[index]
        if left and victim.claim_name(f"{int(victim.new([int(row['va'])])[0]):#x}"):
            left -= 1
            yield row


def _entries(victim: Victim, dice: random.Random, count: int) -> Iterator[tuple[int, int, int]]:
    """Random entries of .rel sections: file offset, place, info."""
    sections = _relocation_sections(victim)
    for section in dice.choices(sections, [s.size for s in sections], k=40 * count):
        at = section.off + RAW_REL.itemsize * dice.randrange(section.size // RAW_REL.itemsize)
        place, info = struct.unpack_from("<II", victim.result.data, at)
        if info & 0xFF and count and victim.claim_name(f"{place:#x}"):
            count -= 1
            yield at, place, info


def _relocation_sections(victim: Victim) -> list[Section]:
    """Those of what the original has."""
    return [
        s
        for s in victim.whole.sections
        if s.kind is SectionKind.REL
        and s.size
        and victim.whole.sections[s.info].is_alloc
        and not s.name.startswith(".rel.vmi")
    ]


def _symbol(victim: Victim, index: int, field: int, value: int) -> None:
    table = next(s for s in victim.whole.sections if s.kind is SectionKind.SYMTAB)
    struct.pack_into("<I", victim.data, table.off + SYMBOL.itemsize * index + field, value)
