# SPDX-License-Identifier: MIT
"""Which sites of a rewritten kernel are alike, so that one stands for all of them?

Two sites have the same shape if their instructions differ in displacements and port numbers alone
and the same thunk stands for them, if one does; a site at which the exception table expects a fault
is apart from one where it expects none. The rewriter takes every register and every flag
for live after every site, so liveness makes no shapes: everything is compared after each of them.
What a site was is read from its native body, without the padding.
"""

from __future__ import annotations

import bisect
import enum
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.isa.classify import split_prefixes
from vmipatch.isa.forms import WantedModrm
from vmipatch.isa.trapped import MAX_LEN, TrappedInstruction, take_apart
from vmipatch.tables.ex_table import EX_TABLE
from vmipatch.tables.table import Role
from vmipatch.tables.view import ImageView
from vmipatch.verify.sites.native import EXECUTED, native_instructions
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    NEAR_CALL_LEN,
    AnnotationRecord,
    unpack_records,
)

RECORD_SECTIONS = (".vmi.annotation", ".vmi.annotation.init")
FALLBACK_SECTION = ".vmi.fallback"
_FALLBACK = struct.Struct("<II")
_DS_PREFIX = b"\x3e"
_POP = range(0x58, 0x60)


class Way(enum.Enum):
    """How a site reaches its ROM call."""

    DIRECT = "calls the ROM itself"
    THUNK = "calls a thunk"
    FALLBACK = "is a hlt that the hypervisor knows"
    NATIVE = "stays as it is"


@dataclass(frozen=True, slots=True)
class PatchedSite:
    """One site as it stands in the rewritten kernel."""

    va: int
    body_len: int
    """Bytes from the first of padding to the last of padding."""
    code: bytes
    """The instruction, or the fused group, without padding."""
    call: VmiCall | None
    way: Way
    parts: tuple[TrappedInstruction, ...]
    """The sensitive instructions in `code`."""
    pops: int | None
    """The register that a fused `pop` fills."""
    thunk_va: int | None = None
    """The thunk that its translation calls or jumps to."""
    fixup_va: int | None = None
    """Where the kernel's exception table expects a fault, if it expects one here."""

    @property
    def end_va(self) -> int:
        """Where execution goes on."""
        return self.va + self.body_len

    @property
    def first(self) -> TrappedInstruction:
        """The instruction that rules."""
        return self.parts[0]

    @property
    def kind(self) -> str:
        """The class it is counted under, as in the scan."""
        return "+".join(part.form.kind for part in self.parts)


@dataclass(frozen=True, slots=True)
class SiteShape:
    """Sites that are alike."""

    name: str
    """Their common traits, as text."""
    site: PatchedSite
    """The first of them."""
    count: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """All shapes of a rewritten kernel."""

    shapes: tuple[SiteShape, ...]
    """By name."""
    left_out: dict[str, int] = field(hash=False)
    """Instructions left native that are not executed, by kind."""


def shapes_of(image: ElfImage) -> Shapes:
    """All shapes of a rewritten kernel, of its sites and of what stays native.

    Raises MalformedTable for records that describe no site.
    """
    found: dict[str, dict[int | None, list[PatchedSite]]] = {}
    patched = list(patched_sites(image))
    taken = frozenset(va for site in patched for va in range(site.va, site.end_va))
    left_out: Counter[str] = Counter()
    native: list[PatchedSite] = []
    for va, part in native_instructions(image, taken):
        if part.form.kind in EXECUTED:
            native.append(PatchedSite(va, part.length, part.code, None, Way.NATIVE, (part,), None))
        else:
            left_out[part.form.kind] += 1
    for site in _with_fixups(image, [*patched, *native]):
        found.setdefault(_name(site), {}).setdefault(site.thunk_va, []).append(site)
    shapes = tuple(
        SiteShape(f"{name} #{number}" if number > 1 else name, sites[0], len(sites))
        for name, by_thunk in sorted(found.items())
        for number, sites in enumerate(by_thunk.values(), 1)
    )
    return Shapes(shapes, dict(sorted(left_out.items())))


def _with_fixups(image: ElfImage, sites: list[PatchedSite]) -> Iterator[PatchedSite]:
    """The sites, each with where the exception table expects a fault in it."""
    table = EX_TABLE.parse(ImageView.of(image))
    words = None if table is None else table.words[table.words["role"] == Role.INSTRUCTION]
    expected = [] if words is None else sorted(words["target_va"].tolist())
    for site in sites:
        at = bisect.bisect_left(expected, site.va)
        is_expected = at < len(expected) and expected[at] < site.end_va
        yield replace(site, fixup_va=expected[at]) if is_expected else site


def patched_sites(image: ElfImage) -> Iterator[PatchedSite]:
    """Every annotated site, then every one-byte fallback."""
    for name in RECORD_SECTIONS:
        if (section := image.section_by_name.get(name)) is None:
            continue
        for record in unpack_records(image.section_bytes(section), name, image.name):
            body = image.read(record.native_va, record.native_len)
            way = Way.THUNK if record.call_off == FINAL_TRANSLATION else Way.DIRECT
            code = _without_padding(body, record.pad_len)
            site = _site(record.native_va, len(body), code, record.call, way)
            yield replace(site, thunk_va=_thunk_va(image, record)) if way is Way.THUNK else site
    fallback = image.section_by_name.get(FALLBACK_SECTION)
    for va, _ in _FALLBACK.iter_unpack(image.section_bytes(fallback) if fallback else b""):
        taken = take_apart(image.read(va, MAX_LEN))
        if taken is None:
            raise MalformedTable("a fallback stands for no instruction", place=f"{va:#x}")
        yield _site(va, taken.length, taken.code, None, Way.FALLBACK)


def _thunk_va(image: ElfImage, record: AnnotationRecord) -> int:
    """Where the translation leads, from where it stands."""
    branch = image.read(record.translation_va, NEAR_CALL_LEN)
    distance = int.from_bytes(branch[1:], "little")
    return record.translation_va + NEAR_CALL_LEN + distance & 0xFFFFFFFF


def _without_padding(body: bytes, pad_len: int) -> bytes:
    """The instruction of a body: after prefixes, before or after nops."""
    prefixed = body.startswith(_DS_PREFIX * pad_len)
    if prefixed or take_apart(body) is None:
        return body[pad_len:]
    return body[: len(body) - pad_len]


def _site(va: int, body_len: int, code: bytes, call: VmiCall | None, way: Way) -> PatchedSite:
    parts: list[TrappedInstruction] = []
    pops, at = None, 0
    while at < len(code) and (taken := take_apart(code[at : at + MAX_LEN])) is not None:
        parts.append(taken)
        at += taken.length
    if len(parts) == 1 and at < len(code) and code[at] in _POP:
        pops = code[at] & 7
        at += 1
    if not parts or code[at:].strip(b"\x90"):
        raise MalformedTable("an annotation describes no sensitive instruction", place=f"{va:#x}")
    return PatchedSite(va, body_len, code, call, way, tuple(parts), pops)


def _name(site: PatchedSite) -> str:
    words = [part.form.name for part in site.parts]
    first = site.first
    prefixes, _ = split_prefixes(first.code)
    words += [f"{octet:02x}" for octet in prefixes if octet != _DS_PREFIX[0]]
    if first.form.operand is not WantedModrm.NONE:
        words.append(f"modrm {first.tail[:1].hex()}")
        if first.memory is not None and first.tail[0] & 7 == 4:
            words.append(f"sib {first.tail[1:2].hex()}")
    if site.pops is not None:
        words.append(f"pop {site.pops}")
    if site.fixup_va is not None:
        words.append("fixup")
    return " ".join([*words, f"({site.way.name.lower()})"])
