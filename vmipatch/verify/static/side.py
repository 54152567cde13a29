# SPDX-License-Identifier: MIT
"""What instructions and relocated words does one of the two files have?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vmipatch.image.ascending import distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.kept import Kept, ranges_in
from vmipatch.image.symbols import STT_FUNC
from vmipatch.image.types import Section
from vmipatch.isa.second import Decoded, decode_second

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
"""Numbers of instructions, lengths, offsets in the loaded part of a file: there are millions."""
U8 = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

WORD = np.arange(4)
"""Offsets of the bytes of a word."""


UD0 = bytes.fromhex("0fff")


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """The landmarks of one file's code before it is decoded: ascending addresses."""

    begins: I64
    """Where instructions begin: chunks, and both ends of a ud0 without ModRM."""
    function_ends: I64
    kept: Kept
    """Ranges that are not decoded: headers, objects, code that is copied or has 16 bits."""
    copied: Mapping[int, int]
    """Address and target of each jump that only its copy, elsewhere, executes."""

    @classmethod
    def of(
        cls,
        image: ElfImage,
        chunk_starts: I64,
        short_traps: Sequence[int],
        kept: Kept,
        copied: Mapping[int, int] = MappingProxyType({}),
    ) -> Landmarks:
        """Those of `image`, of whose ud0 `short_traps` have two bytes."""
        edges = [edge for va in short_traps for edge in (va, va + len(UD0))]
        entries = image.symbols.entries
        sized = entries[(entries["info"] & 15 == STT_FUNC) & (entries["size"] > 0)]
        ends = sized["value"].astype(np.int64) + sized["size"]
        begins = distinct(np.append(chunk_starts, edges).astype(np.int64))
        return cls(begins, distinct(ends), kept, copied)

    def opaque_in(self, section: Section) -> list[tuple[int, int]]:
        """Ranges of one section that are not decoded."""
        return ranges_in(self.kept.ranges, section.va, section.end_va)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Side:
    """The code of one file, decoded: arrays of all executable sections, in address order."""

    image: ElfImage
    sections: tuple[Section, ...]
    octets: U8
    """The file, as far as it holds what is loaded."""
    is_word: Flags
    """For each byte of the file, whether it belongs to a relocated word."""
    offs: I32
    """File offset of each instruction."""
    starts: I64
    copied: Mapping[int, int]
    """As in the landmarks."""
    lens: I32
    leaves: U8
    widths: U8
    fillers: U8
    known: Flags

    @classmethod
    def of(
        cls, image: ElfImage, sections: Sequence[Section], known: Landmarks, relocated_va: I64
    ) -> Side:
        """Decode `sections` of `image`, beginning anew at each of the landmarks."""
        octets = loaded_part(image)
        ordered = tuple(sorted(sections, key=lambda s: s.va))
        streams = [
            decode_second(
                image.section_bytes(s),
                s.va,
                known.begins[_within(known.begins, s)].tolist(),
                known.function_ends.tolist(),
                known.opaque_in(s),
            )
            for s in ordered
        ]
        shifts = [
            np.full(len(d), s.off - s.va, np.int64) for s, d in zip(ordered, streams, strict=True)
        ]
        starts = np.concatenate([d.starts for d in streams])
        is_word = np.zeros(len(octets) + len(WORD), np.bool_)
        off = file_offsets(image, relocated_va)
        is_word[(off[off >= 0, None] + WORD).ravel()] = True
        return cls(
            image,
            ordered,
            octets,
            is_word[: len(octets)],
            (starts + np.concatenate(shifts)).astype(np.int32),
            starts,
            known.copied,
            _joined(streams, "lens").astype(np.int32),
            *(_joined(streams, name) for name in ("leaves", "widths", "fillers", "known")),
        )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ends(self) -> I64:
        """First address after each instruction."""
        return self.starts + self.lens

    def end_va(self, index: int) -> int:
        """First address after one instruction."""
        return int(self.starts[index] + self.lens[index])

    def code(self, index: int) -> bytes:
        """The bytes of one instruction."""
        off = int(self.offs[index])
        return self.image.data[off : off + int(self.lens[index])]

    def words_of(self, index: int) -> Flags:
        """Which bytes of one instruction belong to relocated words."""
        off = int(self.offs[index])
        return self.is_word[off : off + int(self.lens[index])]

    def find(self, vas: I64) -> I64:
        """Index of the instruction that begins at each address, -1 where none does."""
        at = np.searchsorted(self.starts, vas)
        inside = np.minimum(at, len(self) - 1)
        return np.where(self.starts[inside] == vas, inside, -1)

    def over(self, vas: I64) -> I64:
        """Index of the instruction that contains each address, -1 where none does."""
        at = np.searchsorted(self.starts, vas, side="right") - 1
        inside = np.maximum(at, 0)
        return np.where((at >= 0) & (vas < self.starts[inside] + self.lens[inside]), at, -1)

    def targets(self, which: I64 | I32) -> I64:
        """Where each of the direct branches `which` leads."""
        ends, widths = self.offs[which] + self.lens[which], self.widths[which]
        near = words_at(self.octets, np.where(widths == 4, ends - 4, 0)).view(np.int32)
        short = self.octets[ends - 1].astype(np.int8)
        disp = np.where(widths == 4, near.astype(np.int64), short.astype(np.int64))
        return (self.starts[which] + self.lens[which] + disp) & 0xFFFFFFFF

    def linked_targets(self, which: I64 | I32) -> I64:
        """The linked target of each of the direct branches `which`.

        Its target; but what lies in no code, and a page offset away from code, is what code jumps
        to that runs where the kernel is loaded, or leaves for there. Of a jump that only its copy
        executes, the target of the copy.
        """
        result = self.targets(which)
        page_offset = self.image.page_offset
        for offset in (page_offset, -page_offset) if page_offset else ():
            twin = (result - offset) & 0xFFFFFFFF
            far = ~self._in_code(result) & self._in_code(twin)
            result = np.where(far, twin, result)
        for va, target in self.copied.items():
            result[self.starts[which] == va] = target
        return result

    def _in_code(self, vas: I64) -> Flags:
        result = np.zeros(len(vas), np.bool_)
        for section in self.sections:
            result |= _within(vas, section)
        return result

    def beginning_with(self, opcode: bytes) -> list[int]:
        """Addresses of the instructions that begin with the two bytes of `opcode`."""
        first = self.octets[self.offs] == opcode[0]
        which = np.flatnonzero(first & (self.lens > 1))
        found: list[int] = self.starts[which][
            self.octets[self.offs[which] + 1] == opcode[1]
        ].tolist()
        return found

    def section_of(self, va: int) -> Section | None:
        """The executable section that holds `va`, or None."""
        return next((s for s in self.sections if s.va <= va < s.end_va), None)


def words_at(octets: U8, offs: I64 | I32) -> npt.NDArray[np.uint32]:
    """The little-endian words at file offsets, aligned or not."""
    everywhere = np.ndarray(max(len(octets) - 3, 0), "<u4", octets, strides=(1,))
    words: npt.NDArray[np.uint32] = everywhere[offs]
    return words


def ranges(first: I64, count: I64) -> I64:
    """The numbers first[i], first[i] + 1, ... of each range, `count[i]` of them."""
    before = np.cumsum(count) - count
    numbers: I64 = np.arange(int(count.sum()), dtype=np.int64) + np.repeat(
        first - before, count.astype(np.intp)
    )
    return numbers


def loaded_part(image: ElfImage) -> U8:
    """The file up to the last byte that is loaded: what follows may be much more."""
    end = max((s.off + s.size for s in image.allocated_sections if s.has_bytes), default=0)
    return np.frombuffer(image.data, np.uint8, end)


def file_offsets(image: ElfImage, vas: I64) -> I64:
    """File offset of each address, -1 where the file has no byte for it."""
    sections = [s for s in image.allocated_sections if s.has_bytes and s.size]
    begin = np.array([s.va for s in sections], np.int64)
    end = np.array([s.end_va for s in sections], np.int64)
    off = np.array([s.off for s in sections], np.int64)
    at = np.searchsorted(begin, vas, side="right") - 1
    inside = np.maximum(at, 0)
    return np.where((at >= 0) & (vas < end[inside]), off[inside] + vas - begin[inside], -1)


def _within(vas: I64, section: Section) -> Flags:
    return np.asarray((vas >= section.va) & (vas < section.end_va))


def _joined(streams: Sequence[Decoded], name: str) -> np.ndarray:
    return np.concatenate([getattr(d, name) for d in streams])
