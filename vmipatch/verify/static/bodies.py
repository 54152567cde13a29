# SPDX-License-Identifier: MIT
"""Which bytes of the output are native bodies, and what stands in each?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.verify.static.rules import RECORD_BODY, RECORD_CALL, RECORD_OVERLAP
from vmipatch.verify.static.side import I64, Flags, Side
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.record import RECORD_LEN, AnnotationRecord, unpack_records

RECORD_SECTIONS = (".vmi.annotation", ".vmi.annotation.init")
PADS = frozenset(
    bytes.fromhex(code)
    for code in ("90", "89f6", "8d7600", "8d742600", "8db600000000", "8db42600000000")
)
"""What gas emits as padding for i386; the 0f 1f forms do not exist on every i386 processor."""


@dataclass(frozen=True, slots=True)
class Body:
    """A record, and the instructions of the output that its native body consists of.

    [first, core) and [behind, end) are indices of filler, [core, behind) of other instructions.
    """

    record: AnnotationRecord
    record_va: int
    section: str
    """The record section that holds the record."""
    place: str
    first: int
    core: int
    behind: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """All bodies by address, and what they mean for each instruction of the output."""

    bodies: tuple[Body, ...]
    is_pad: Flags
    """Instructions that are padding of a site. Filler in a body whose record knows of no padding
    is the original's own: an alternative that its assembler filled up."""
    begins: I64
    """For each instruction where its body begins, if it is the first of one; else its address."""
    ends: I64
    """For each instruction where its body ends, if it is the last of one; else its end."""
    body_of: I64
    """For each instruction the index of its body, -1 outside of bodies."""


def read_bodies(output: ElfImage, side: Side, report: Report) -> Bodies:
    """Read the records of `output` and find the instructions of their bodies in `side`."""
    found: list[Body] = []
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
) -> Body | None:
    """The instructions of one body; None if its ends are not ends of instructions."""
    first = int(side.find(np.array([record.native_va]))[0])
    if first < 0 or not record.native_len:
        return None
    end_va = record.native_va + record.native_len
    end = int(np.searchsorted(side.starts, end_va))
    if int(side.starts[end - 1] + side.lens[end - 1]) != end_va:
        return None
    core, behind = first, end
    while core < end and side.fillers[core] and side.code(core) in PADS:
        core += 1
    while behind > core and side.fillers[behind - 1] and side.code(behind - 1) in PADS:
        behind -= 1
    return (
        None
        if core == behind
        else Body(record, record_va, section, place, first, core, behind, end)
    )


def _disjoint(found: list[Body], report: Report) -> list[Body]:
    """The bodies in address order; of those that share bytes only the first."""
    kept: list[Body] = []
    for body in sorted(found, key=lambda b: (b.first, b.record_va)):
        if kept and body.first < kept[-1].end:
            message = f"shares bytes with {kept[-1].place}"
            report.add(RECORD_OVERLAP, body.record_va, message, body.place)
        else:
            kept.append(body)
    return kept


def _mapped(side: Side, bodies: list[Body]) -> Bodies:
    is_pad = np.zeros(len(side), np.bool_)
    begins, ends = side.starts.copy(), side.ends
    body_of = np.full(len(side), -1, np.int64)
    for index, body in enumerate(bodies):
        if body.record.pad_len:
            is_pad[body.first : body.core] = True
            is_pad[body.behind : body.end] = True
            begins[body.core] = side.starts[body.first]
            ends[body.behind - 1] = int(side.starts[body.end - 1] + side.lens[body.end - 1])
        body_of[body.first : body.end] = index
    return Bodies(tuple(bodies), is_pad, begins, ends, body_of)
