# SPDX-License-Identifier: MIT
"""Which instructions are proven to be where the sweep found them, by following control flow?

From symbols, words of kernel tables, relocated words and the entry points that the ELF header and
multiboot headers name, along direct branches and from each instruction to the one after it. A sweep
from end to end only proposes boundaries.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.image.ascending import among, distinct
from vmipatch.image.entry_points import entry_points, linked_address
from vmipatch.image.kept import Kept
from vmipatch.image.relocations import R_386_32
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE
from vmipatch.isa.decode import Flow
from vmipatch.scan.code import CodeMap
from vmipatch.tables.table import Role, TableName

Numbers = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]

UNDEFINED = (b"\x0f\x0b", b"\x0f\xb9", b"\x0f\xff")
"""ud2, ud1 and ud0."""


FAR_JUMP, FAR_JUMP_LEN = 0xEA, 7
ADDRESS_SIZE = 0x67
"""The prefix that compilers put before the ud1 of a trap."""


class CodeEvidence(enum.IntEnum):
    """Why it is known that an instruction begins at a place."""

    NONE = 0
    SYMBOL = 1
    TABLE = 2  # a word or place of a kernel table
    REFERENCE = 3  # a relocated word, or the entry point
    BRANCH = 4  # a direct branch of proven code
    FLOW = 5  # the proven instruction in front of it
    SIGNATURE = 6  # no code: what the kernel looks for after a static call's trampoline


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """The evidence for each instruction of each section, and what contradicts the boundaries."""

    evidence: dict[int, Octets]
    """By section index, parallel to the stream."""
    astray: tuple[int, ...]
    """Addresses inside instructions to which a branch of proven code, a symbol or a table leads."""
    inside: tuple[int, ...]
    """The same for relocated words, which may be halves of a computation."""
    references_known: bool
    """Whether the image has relocations: if so, what nothing refers to is never executed."""
    kept: Kept
    """Ranges that are not code of 32 bits, laid out anew."""


@dataclass(frozen=True, slots=True, eq=False)
class _Code:
    """All streams in one row."""

    starts: Numbers
    ends: Numbers
    run: Numbers
    """Instructions of one run follow each other without a stop."""
    branch: Numbers
    target: Numbers
    """Index of the instruction that each branch targets, -1 for none."""
    target_va: Numbers

    @classmethod
    def of(cls, code_map: CodeMap) -> _Code:
        streams = list(code_map.streams.values())
        starts = np.concatenate([s.starts.astype(np.int64) for s in streams])
        ends = np.concatenate([s.starts.astype(np.int64) + s.lens for s in streams])
        stops = np.concatenate([_stops(code_map, index) for index in code_map.streams])
        begins = np.ones(len(starts), np.bool_)
        begins[1:] = stops[:-1] | (ends[:-1] != starts[1:])
        shift = np.cumsum([0, *map(len, streams)])
        branch = np.concatenate(
            [s.branches + at for s, at in zip(streams, shift[:-1], strict=True)]
        )
        target_va = np.concatenate([code_map.linked_targets(s) for s in streams])
        far, far_va = _far_jumps(code_map, starts, shift[:-1].tolist())
        branch, target_va = np.append(branch, far), np.append(target_va, far_va)
        return cls(starts, ends, np.cumsum(begins) - 1, branch, _find(starts, target_va), target_va)


def _far_jumps(code_map: CodeMap, starts: Numbers, shift: list[int]) -> tuple[Numbers, Numbers]:
    """Far jumps to constants that arrive at an instruction: numbers of both, and addresses.

    Before a kernel's own page tables or segments are in use the constant may be physical.
    """
    found: list[tuple[int, int]] = []
    for stream, before in zip(code_map.streams.values(), shift, strict=True):
        octets = np.frombuffer(stream.code, np.uint8)
        stopping = np.flatnonzero((stream.flows == Flow.STOP) & (stream.lens == FAR_JUMP_LEN))
        offs = stream.starts[stopping].astype(np.int64) - stream.va
        for index in stopping[octets[offs] == FAR_JUMP].tolist():
            target = int.from_bytes(stream.bytes_at(index)[1:5], "little")
            found.append((before + index, linked_address(code_map.image, target)))
    rows = np.array(found, np.int64).reshape(-1, 2)
    rows = rows[_find(starts, rows[:, 1]) >= 0]
    return rows[:, 0], rows[:, 1]


def _stops(code_map: CodeMap, index: int) -> npt.NDArray[np.bool_]:
    """Which instructions do not go on to the next one. A ud2 may: WARN is one, or a ud0 or ud1."""
    stream = code_map.streams[index]
    octets = np.frombuffer(stream.code + b"\0\0", np.uint8)
    stops: npt.NDArray[np.bool_] = (stream.flows == Flow.JUMP) | (stream.flows == Flow.STOP)
    stopping = np.flatnonzero(stops)
    offs = stream.starts[stopping].astype(np.int64) - stream.va
    offs += octets[offs] == ADDRESS_SIZE
    opcode = octets[offs].astype(np.uint16) << 8 | octets[offs + 1]
    stops[stopping] = ~np.isin(opcode, [int.from_bytes(code, "big") for code in UNDEFINED])
    stops[stream.undecodable] = True
    return stops


def follow(code_map: CodeMap) -> Followed:
    """Follow all control flow of an image. Raises nothing: what is not proven has no evidence."""
    if not code_map.streams:
        # a module of data alone
        return Followed({}, (), (), bool(len(code_map.relocations)), code_map.kept)
    code = _Code.of(code_map)
    evidence = np.zeros(len(code.starts), np.uint8)
    astray: list[Numbers] = []
    inside = np.zeros(0, np.int64)
    # The strongest evidence last.
    for kind, vas in _roots(code_map):
        index = _find(code.starts, vas)
        evidence[index[index >= 0]] = kind
        lost = vas[(index < 0) & _within(code, vas)]
        if kind is CodeEvidence.REFERENCE:
            inside = lost
        else:
            astray.append(lost)
    following = _find(code.starts, _behind_places(code_map))
    following = following[following >= 0]
    evidence[following[evidence[following] == 0]] = CodeEvidence.TABLE
    astray.append(_spread(code, evidence))
    _mark_signatures(code_map, code, evidence)
    sizes = np.cumsum([len(s) for s in code_map.streams.values()])[:-1]
    parts = np.split(evidence, sizes)
    return Followed(
        dict(zip(code_map.streams, parts, strict=True)),
        tuple(distinct(np.concatenate(astray)).tolist()),
        tuple(distinct(inside).tolist()),
        bool(len(code_map.relocations)),
        code_map.kept,
    )


def _spread(code: _Code, evidence: Octets) -> Numbers:
    """Extend evidence along runs and branches; the branch targets that are no boundary."""
    far = len(code.starts)
    first = np.full(int(code.run[-1]) + 1, far, np.int64)
    """Where each run is entered first."""
    seeds = np.flatnonzero(evidence)
    np.minimum.at(first, code.run[seeds], seeds)
    # Branches not taken yet: their own number, run, number and address of the target.
    waiting: tuple[Numbers, ...] = (
        code.branch,
        code.run[code.branch],
        code.target,
        code.target_va,
    )
    lost = [np.zeros(0, np.int64)]
    while True:
        taken = waiting[0] >= first[waiting[1]]
        if not taken.any():
            break
        _, _, target, target_va = (column[taken] for column in waiting)
        waiting = tuple(column[~taken] for column in waiting)
        lost.append(target_va[target < 0])
        target = target[target >= 0]
        evidence[target[evidence[target] == 0]] = CodeEvidence.BRANCH
        np.minimum.at(first, code.run[target], target)
    reached = np.arange(far) >= first[code.run]
    evidence[reached & (evidence == 0)] = CodeEvidence.FLOW
    missed = np.concatenate(lost)
    return missed[_within(code, missed)]


def _roots(code_map: CodeMap) -> list[tuple[CodeEvidence, Numbers]]:
    image, words = code_map.image, code_map.relocations.entries
    value = words["value"].astype(np.int64)
    place = words["va"].astype(np.int64)
    is_absolute = words["kind"] == R_386_32
    offset = code_map.page_offset
    in_data = ~np.isin(words["section"], [s.index for s in image.executable_sections])
    operand_words = [t.operand_words["va"].astype(np.int64) for t in code_map.tables]
    in_data &= ~among(place, distinct(np.concatenate([np.zeros(0, np.int64), *operand_words])))
    references = np.concatenate(
        [
            value[is_absolute],
            value[is_absolute] + offset,
            (value + place)[~is_absolute & in_data] & 0xFFFFFFFF,
            np.array(entry_points(image), np.int64),
        ]
    )
    tables = [np.zeros(0, np.int64)]
    for table in code_map.tables:
        is_code = ~np.isin(table.words["role"], (Role.DATA, Role.OPERAND))
        tables.append(table.words["target_va"][is_code].astype(np.int64))
        tables.append(table.instruction_places["va"].astype(np.int64))
    entries = image.symbols.entries
    kinds = entries["info"] & 15
    named = ((kinds == STT_FUNC) | (kinds == STT_NOTYPE)) & (entries["shndx"] < SHN_ABS)
    here = [s.index for s in image.executable_sections]
    named &= np.isin(entries["shndx"], here)
    symbols = entries["value"][named].astype(np.int64)
    symbols = symbols[~np.isin(symbols, code_map.inner_labels)]
    return [
        (CodeEvidence.REFERENCE, distinct(references)),
        (CodeEvidence.TABLE, distinct(np.concatenate(tables))),
        (CodeEvidence.SYMBOL, distinct(symbols)),
    ]


def _behind_places(code_map: CodeMap) -> Numbers:
    """Places after code that the kernel replaces: a jump may become nops and be run through."""
    ends = [np.zeros(0, np.int64)]
    for table in code_map.tables:
        places = table.places_of(Role.INSTRUCTION)
        ends.append(places["va"].astype(np.int64) + places["len"])
    return np.concatenate(ends)


def _mark_signatures(code_map: CodeMap, code: _Code, evidence: Octets) -> None:
    """The ends of static-call trampolines that nothing runs (__static_call_validate)."""
    places = code_map.tables.places(TableName.STATIC_CALLS)
    start = places["va"].astype(np.int64)
    low = np.searchsorted(code.starts, start)
    high = np.searchsorted(code.starts, start + places["len"])
    for first, end in zip(low.tolist(), high.tolist(), strict=True):
        part = evidence[first:end]
        part[part == 0] = CodeEvidence.SIGNATURE


def _within(code: _Code, vas: Numbers) -> npt.NDArray[np.bool_]:
    """Which addresses lie inside an instruction."""
    at = np.maximum(np.searchsorted(code.starts, vas, side="right") - 1, 0)
    inside: npt.NDArray[np.bool_] = (code.starts[at] < vas) & (vas < code.ends[at])
    return inside


def _find(starts: Numbers, vas: Numbers) -> Numbers:
    at = np.minimum(np.searchsorted(starts, vas), len(starts) - 1)
    return np.where(starts[at] == vas, at, -1)
