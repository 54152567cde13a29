# SPDX-License-Identifier: MIT
"""Which bytes of the output are native bodies, and what stands in each?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.verify.static.pads import PADS
from vmipatch.verify.static.rules import RECORD_BODY, RECORD_CALL, RECORD_OVERLAP
from vmipatch.verify.static.side import I32, I64, Flags, Side
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.record import RECORD_LEN, AnnotationRecord, unpack_records

RECORD_SECTIONS = (".vmi.annotation", ".vmi.annotation.init")


@dataclass(frozen=True, slots=True)
class RecordedBody:
    """A record, and the instructions of the output that its native body consists of.

    [first, core) and [after, end) are indices of filler, [core, after) of other instructions.
    """

    record: AnnotationRecord
    record_va: int
    section: str
    """The record section that holds the record."""
    place: str
    first: int
    core: int
    after: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """All bodies by address, and what they mean for each instruction of the output."""

    bodies: tuple[RecordedBody, ...]
    is_pad: Flags
    """Instructions that are padding of a site. Filler in a body whose record knows of no padding
    is the original's own: an alternative that its assembler filled up."""
    side: Side = field(repr=False)
    padded: tuple[I64, I64]
    """The first instruction of each body with padding, ascending, and where the body begins."""
    padded_last: tuple[I64, I64]
    """The last one of each, and where the body ends."""
    body_of: I32
    """For each instruction the index of its body, -1 outside of bodies."""

    def begins(self, which: I32 | I64) -> I64:
        """For each of some instructions where its body begins, if it is the first of one; else its
        address.
        """
        return _instead(self.padded, which, self.side.starts[which])

    def ends(self, which: I32 | I64) -> I64:
        """For each where its body ends, if it is the last of one; else its end."""
        return _instead(self.padded_last, which, self.side.starts[which] + self.side.lens[which])


def _instead(known: tuple[I64, I64], which: I32 | I64, values: I64) -> I64:
    """The `values` of some instructions; of those that are `known` what is known."""
    numbers, instead = known
    if len(numbers):
        at = np.minimum(np.searchsorted(numbers, which), len(numbers) - 1)
        found = np.flatnonzero(numbers[at] == which)
        values[found] = instead[at[found]]
    return values


def read_bodies(output: ElfImage, side: Side, report: Report) -> Bodies:
    """Read the records of `output` and find the instructions of their bodies in `side`."""
    found: list[RecordedBody] = []
    for name in RECORD_SECTIONS:
        section = output.section_by_name.get(name)
        if section is None:
            continue
        for index, record in _records(output, section, report):
            place = f"{name}[{index}] ({output.symbols.place_of(record.native_va)})"
            body = _locate(side, record, section.va + index * RECORD_LEN, name, place)
            if body is None:
                message = f"{record.native_len} bytes at {record.native_va:#x} are not whole code"
                report.add(RECORD_BODY, section.va + index * RECORD_LEN, message, place)
            else:
                found.append(body)
    return _mapped(side, _disjoint(found, report))


def _records(
    output: ElfImage, section: Section, report: Report
) -> Iterator[tuple[int, AnnotationRecord]]:
    """The records of one section with their index; those that cannot be read are reported."""
    data = output.section_bytes(section)
    for index, at in enumerate(range(0, len(data), RECORD_LEN)):
        try:
            yield index, next(unpack_records(data[at : at + RECORD_LEN]))
        except MalformedTable as error:
            report.add(RECORD_CALL, section.va + at, error.message, f"{section.name}[{index}]")


def _locate(
    side: Side, record: AnnotationRecord, record_va: int, section: str, place: str
) -> RecordedBody | None:
    """The instructions of one body; None if its ends are not ends of instructions."""
    first = int(side.find(np.array([record.native_va], np.int64))[0])
    if first < 0 or not record.native_len:
        return None
    end_va = record.native_va + record.native_len
    end = int(np.searchsorted(side.starts, end_va))
    if int(side.starts[end - 1] + side.lens[end - 1]) != end_va:
        return None
    core, following = first, end
    while core < end and side.fillers[core] and side.code(core) in PADS:
        core += 1
    while following > core and side.fillers[following - 1] and side.code(following - 1) in PADS:
        following -= 1
    return (
        None
        if core == following
        else RecordedBody(record, record_va, section, place, first, core, following, end)
    )


def _disjoint(found: list[RecordedBody], report: Report) -> list[RecordedBody]:
    """The bodies in address order; of those that share bytes only the first."""
    kept: list[RecordedBody] = []
    for body in sorted(found, key=lambda b: (b.first, b.record_va)):
        if kept and body.first < kept[-1].end:
            message = f"shares bytes with {kept[-1].place}"
            report.add(RECORD_OVERLAP, body.record_va, message, body.place)
        else:
            kept.append(body)
    return kept


def _mapped(side: Side, bodies: list[RecordedBody]) -> Bodies:
    is_pad = np.zeros(len(side), np.bool_)
    body_of = np.full(len(side), -1, np.int32)
    for index, body in enumerate(bodies):
        if body.record.pad_len:
            is_pad[body.first : body.core] = True
            is_pad[body.after : body.end] = True
        body_of[body.first : body.end] = index
    rows = [(b.first, b.core, b.after, b.end) for b in bodies if b.record.pad_len]
    first, core, after, end = np.array(rows, np.int64).reshape(-1, 4).T
    begins, ends = side.starts[first], side.starts[end - 1] + side.lens[end - 1]
    return Bodies(tuple(bodies), is_pad, side, (core, begins), (after - 1, ends), body_of)
