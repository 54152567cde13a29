# SPDX-License-Identifier: MIT
"""Changes of what a rewrite adds: records, thunks, translations, manifest, the note of restore."""

from __future__ import annotations

import json
import random
import struct
from itertools import pairwise
from typing import Any

from tests.verify.adversarial.kinds import (
    NotHere,
    Target,
    exchange,
    kind,
    other_byte,
    other_value,
    times,
)
from tests.verify.edit import ADDR, FLAGS, NOBITS, OFFSET, SIZE, TYPE, FileEdit
from vmipatch.vmi.record import MERGE_FLAGS

RECORD_LEN, WORD_LEN = 16, 4
RECORDS = (".vmi.annotation", ".vmi.annotation.init")
TABLES = (".vmi.thunks", ".vmi.fallback", ".vmi.translation")
ADDED = (".vmi.text", *RECORDS, *TABLES)
OF_RECORD = {"call": 0, "native_va": 4, "translation_va": 8, "native_len": 12,
             "translation_len": 13, "pad_len": 14, "call_off": 15}  # fmt: skip


def _read(edit: FileEdit, va: int, length: int) -> bytes:
    for head in edit.heads:
        if head[FLAGS] & 2 and head[TYPE] != NOBITS and head[ADDR] <= va < head[ADDR] + head[SIZE]:
            off = head[OFFSET] + va - head[ADDR]
            return bytes(edit.data[off : off + length])
    raise NotHere


@kind("code: padding of a site after it", times(12))
def padding_after(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """Where prefixes stand before an instruction, nops after it, or in front of it."""
    records = edit.content(RECORDS[0])
    for index in dice.sample(range(len(records) // RECORD_LEN), len(records) // RECORD_LEN):
        _, va, _, length, _, pad_len, _ = struct.unpack_from("<IIIBBbB", records, 16 * index)
        code = _read(edit, va, length)
        if 0 < pad_len < 5 and code[:pad_len] == b"\x3e" * pad_len:
            pad = {1: b"\x90", 2: b"\x89\xf6", 3: b"\x8d\x76\x00", 4: b"\x8d\x74\x26\x00"}[pad_len]
            core, in_front = code[pad_len:], target[0] % 2
            edit.put(va, pad + core if in_front else core + pad)
            return f"site at {va:#x}, nops {'in front' if in_front else 'after it'}"
    raise NotHere


@kind("records: a field", lambda _: [(name,) for name in OF_RECORD], weight=8)
def record_field(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    section = dice.choice(RECORDS)
    head, off = edit.head(section), OF_RECORD[target[0]]
    if not head[SIZE]:
        raise NotHere
    width = 4 if off < 12 else 1
    at = head[OFFSET] + RECORD_LEN * dice.randrange(head[SIZE] // RECORD_LEN) + off
    value = other_value(int.from_bytes(edit.data[at : at + width], "little"), dice, width)
    edit.data[at : at + width] = value.to_bytes(width, "little")
    return f"{target[0]} of a record in {section} is {value:#x}"


def _unit(name: str) -> int:
    return {**dict.fromkeys(RECORDS, RECORD_LEN), ".vmi.translation": 5}.get(name, 8)


@kind("added tables: entries exchanged", lambda _: [(n,) for n in (*RECORDS, *TABLES)], weight=4)
def rows_exchanged(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    exchange(edit, target[0], _unit(*target), dice)
    return f"in {target[0]}"


@kind("added tables: an entry less", lambda _: [(n,) for n in (*RECORDS, *TABLES)], weight=2)
def row_removed(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head, unit, table = edit.head(*target), _unit(*target), edit.content(*target)
    if len(table) < unit:
        raise NotHere
    at = unit * dice.randrange(len(table) // unit)
    table = table[:at] + table[at + unit :]
    edit.data[head[OFFSET] : head[OFFSET] + len(table)] = table
    head[SIZE] = len(table)
    return f"in {target[0]}"


@kind("added tables: an entry doubled", lambda _: [(n,) for n in (*RECORDS, *TABLES)])
def row_doubled(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head, unit = edit.head(*target), _unit(*target)
    count = head[SIZE] // unit
    if count < 2:
        raise NotHere
    at = head[OFFSET] + unit * dice.randrange(count - 1)
    edit.data[at + unit : at + 2 * unit] = edit.data[at : at + unit]
    return f"in {target[0]}, over the next"


@kind("added tables: a field", lambda _: [(n,) for n in TABLES], weight=6)
def table_field(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    if not head[SIZE]:
        raise NotHere
    at = head[OFFSET] + WORD_LEN * dice.randrange(head[SIZE] // WORD_LEN)
    value = other_value(int.from_bytes(edit.data[at : at + WORD_LEN], "little"), dice)
    struct.pack_into("<I", edit.data, at, value)
    return f"a word of {target[0]} is {value:#x}"


def thunk_targets(edit: FileEdit) -> list[int]:
    """Where the translations lead, each once, ascending: the thunks begin there."""
    head, table = edit.head(".vmi.translation"), edit.content(".vmi.translation")
    found = set()
    for at in range(5, len(table) - 4, 5):
        found.add(head[ADDR] + at + 5 + struct.unpack_from("<i", table, at + 1)[0])
    return sorted(found)


@kind("thunks: exchanged", times(20))
def thunks_exchanged(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """Two of one length change places, as bytes."""
    starts = thunk_targets(edit)
    spans = list(pairwise(starts))
    pairs = [(a, b) for a in spans for b in spans if a < b and a[1] - a[0] == b[1] - b[0]]
    if not pairs:
        raise NotHere
    (first, first_end), (second, _) = dice.choice(pairs)
    length = first_end - first
    one, other = _read(edit, first, length), _read(edit, second, length)
    if one == other:
        raise NotHere
    edit.put(first, other)
    edit.put(second, one)
    return f"{first:#x} and {second:#x}, {length} bytes"


@kind("thunks: exchanged with all that names them", times(12))
def thunks_and_names(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """Two of one length with the translations that lead there and the table of calls in them."""
    starts = thunk_targets(edit)
    spans = list(pairwise(starts))
    pairs = [(a, b) for a in spans for b in spans if a < b and a[1] - a[0] == b[1] - b[0]]
    if not pairs:
        raise NotHere
    (first, first_end), (second, second_end) = dice.choice(pairs)
    one, other = _read(edit, first, first_end - first), _read(edit, second, second_end - second)
    edit.put(first, other)
    edit.put(second, one)
    head, table = edit.head(".vmi.translation"), edit.content(".vmi.translation")
    for at in range(5, len(table) - 4, 5):
        after_va = head[ADDR] + at + 5
        goal = after_va + struct.unpack_from("<i", table, at + 1)[0]
        goal = {first: second, second: first}.get(goal, goal)
        struct.pack_into("<i", edit.data, head[OFFSET] + at + 1, goal - after_va)
    calls = edit.head(".vmi.thunks")
    rows = list(struct.iter_unpack("<II", edit.content(".vmi.thunks")))
    moved = second - first
    rows = [
        (va + moved, n) if first <= va < first_end
        else (va - moved, n) if second <= va < second_end else (va, n)
        for va, n in rows
    ]  # fmt: skip
    rows.sort(key=lambda row: (row[1] == MERGE_FLAGS, row))
    edit.data[calls[OFFSET] : calls[OFFSET] + calls[SIZE]] = b"".join(
        struct.pack("<II", *row) for row in rows
    )
    return f"{first:#x} and {second:#x}, {first_end - first} bytes"


@kind("translations: exchanged", times(8))
def translations_exchanged(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """Two translations target each other's thunks."""
    head, table = edit.head(".vmi.translation"), edit.content(".vmi.translation")
    places = list(range(5, len(table) - 4, 5))
    if len(places) < 2:
        raise NotHere
    first, second = dice.sample(places, 2)
    goals = [head[ADDR] + at + 5 + struct.unpack_from("<i", table, at + 1)[0]
             for at in (first, second)]  # fmt: skip
    for at, goal in zip((second, first), goals, strict=True):
        struct.pack_into("<i", edit.data, head[OFFSET] + at + 1, goal - head[ADDR] - at - 5)
    return f"number {first // 5} and {second // 5}"


@kind("added code: a byte", times(60))
def added_code_byte(edit: FileEdit, dice: random.Random, target: Target) -> str:
    head = edit.head(".vmi.text")
    at = head[OFFSET] + dice.randrange(head[SIZE])
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at - head[OFFSET]:#x} of .vmi.text"


MANIFEST_KEYS = ("version", "input_sha256", "mode", "shift_len", "padding", "sites", "native",
                 "dropped", "redirect", "trampolines")  # fmt: skip


@kind("manifest: a key less", lambda _: [(key,) for key in MANIFEST_KEYS])
def key_removed(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    manifest = edit.manifest()
    del manifest[target[0]]
    edit.set_manifest(manifest)
    return target[0]


OTHERS: dict[str, tuple[Any, ...]] = {
    "version": (0, 2, "1", True, None),
    "input_sha256": ("", "0" * 64, None),
    "mode": ("shift", "absorb", "other"),
    "shift_len": (0, 4096, -4096, 1 << 33),
    "padding": ("nop", "prefix", "", None, []),
    "sites": ({}, [], {"harmless": 0}, {"harmless": 1 << 40}),
    "native": ([], None, {}),
    "dropped": ([".debug_info"], [], "x", [".comment"]),
    "redirect": ([], [[0, 0]], None),
    "trampolines": ([[0xC1000000, 5, 0xC1000000, 5]], None, [[0, 0, 0, 0]]),
}


@kind("manifest: another value", lambda _: [(k, i) for k, v in OTHERS.items() for i in
                                            range(len(v))])  # fmt: skip
def value_changed(edit: FileEdit, dice: random.Random, target: tuple[str, int]) -> str:
    key, index = target
    manifest = edit.manifest()
    if manifest[key] == OTHERS[key][index]:
        raise NotHere
    manifest[key] = OTHERS[key][index]
    edit.set_manifest(manifest)
    return f"{key} is {json.dumps(OTHERS[key][index])}"


@kind("manifest: a number", times(24))
def number_changed(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """One more or less, in place or not."""
    manifest = edit.manifest()
    places: list[tuple[Any, Any]] = [(manifest["sites"], key) for key in manifest["sites"]]
    places += [(row, "va") for row in manifest["native"]]
    places += [(row, i) for row in (*manifest["redirect"], *manifest["trampolines"])
               for i in range(len(row))]  # fmt: skip
    # Each kind of number has its turn: counts, addresses of what stays native, of branches.
    row, key = places[target[0]] if target[0] < len(manifest["sites"]) else dice.choice(places)
    row[key] += dice.choice((-1, 1))
    edit.set_manifest(manifest)
    return f"{key} is {row[key]}"


@kind("manifest: a row of what stays native", times(16))
def native_row(edit: FileEdit, dice: random.Random, target: Target) -> str:
    manifest = edit.manifest()
    rows = manifest["native"]
    if not rows:
        raise NotHere
    index = dice.randrange(len(rows))
    how = ("removed", "doubled", "moved", "kind", "disposition", "reason", "key")[target[0] % 7]
    if how == "removed":
        del rows[index]
    elif how == "doubled":
        rows.append(dict(rows[index]))
    elif how == "moved":
        rows.insert(0, rows.pop())
        if rows[0] == rows[-1] or len(rows) < 2:
            raise NotHere
    elif how == "key":
        rows[index]["more"] = 1
    else:
        old = rows[index][how]
        choices = {row[how] for row in rows} | {"native-trapping", "cli", "\x1b[2J", ""}
        rows[index][how] = dice.choice(sorted(choices - {old}))
    edit.set_manifest(manifest)
    return f"row {index}: {how}"


@kind("manifest: other bytes for the same", times(8))
def manifest_form(edit: FileEdit, dice: random.Random, target: Target) -> str:
    manifest = edit.manifest()
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    forms = (
        text, text + "\n\n", text + "\n\0", " " + text + "\n",
        json.dumps(manifest, sort_keys=True) + "\n",
        json.dumps(dict(reversed(manifest.items())), separators=(",", ":")) + "\n",
        text.replace('"version":1', '"version":1.0') + "\n",
        text.replace('"version":1', '"version":1,"version":1') + "\n",
    )  # fmt: skip
    edit.rewrite(".vmi.manifest", forms[target[0]].encode())
    return ("no line end", "two", "a zero byte", "a blank", "blanks", "another order",
            "a number with a point", "a key twice")[target[0]]  # fmt: skip


@kind("restore note: a byte", times(40))
def restore_byte(edit: FileEdit, dice: random.Random, target: Target) -> str:
    head = edit.head(".vmi.restore")
    place = dice.randrange(min(64, head[SIZE])) if target[0] % 2 else dice.randrange(head[SIZE])
    at = head[OFFSET] + place
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {place:#x} of the note"


@kind("restore note: longer or shorter", lambda _: [(by,) for by in (-16, -1, 1, 16)])
def restore_resized(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    head, (by,) = edit.head(".vmi.restore"), target
    if by > 0:
        edit.data += bytes(by)
    else:
        del edit.data[by:]
    head[SIZE] += by
    return f"by {by}"


@kind("restore note: left out", times(1))
def restore_left_out(edit: FileEdit, dice: random.Random, target: Target) -> str:
    head = edit.head(".vmi.restore")
    del edit.data[head[OFFSET] :]
    head[SIZE] = 0
    return "its section is empty, and the file ends before it"
