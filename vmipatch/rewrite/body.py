# SPDX-License-Identifier: MIT
"""Which bytes stand at a widened site? Its native body with padding up to a near call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmipatch.choices import Padding
from vmipatch.isa.classify import has_memory_operand
from vmipatch.scan.site import Fusion, Site
from vmipatch.vmi.record import NEAR_CALL_LEN

DS_PREFIX = b"\x3e"
MAX_PREFIXES = 4
"""More prefixes are slow on some processors (design rule D2)."""

NOPS = {
    1: b"\x90",
    2: b"\x89\xf6",
    3: b"\x8d\x76\x00",
    4: b"\x8d\x74\x26\x00",
    6: b"\x8d\xb6\x00\x00\x00\x00",
    7: b"\x8d\xb4\x26\x00\x00\x00\x00",
}
"""32-bit nops as gas emits them for i386; the 0f 1f forms do not exist on every i386 processor."""


@dataclass(frozen=True, slots=True)
class NativeBody:
    """The bytes of a site in the new image; `pad_len` of them are padding."""

    code: bytes
    pad_len: int
    added_instructions: int


def nops(length: int) -> bytes:
    """`length` bytes of nops, in as few instructions as there are."""
    result = b""
    while length:
        size = max(n for n in NOPS if n <= length)
        result += NOPS[size]
        length -= size
    return result


def takes_prefix(site: Site) -> bool:
    """Whether the first instruction ignores a segment prefix: no memory operand, no string source.

    Intel SDM volume 2, section 2.1.1: segment overrides are ignored where no memory is addressed.
    """
    form = site.forms[0]
    return not has_memory_operand(form, site.code) and not form.has_string_source


def body_of(site: Site, padding: Padding) -> NativeBody:
    """The native body of `site`, at least a near call long."""
    missing = NEAR_CALL_LEN - len(site.code)
    if missing <= 0:
        return NativeBody(site.code, 0, 0)
    if padding is Padding.PREFIX and missing <= MAX_PREFIXES and takes_prefix(site):
        return NativeBody(DS_PREFIX * missing + site.code, missing, 0)
    filler = nops(missing)
    if _opens_shadow(site):
        # After sti a nop would end the interrupt shadow before the instruction it protects.
        return NativeBody(filler + site.code, missing, 1)
    return NativeBody(site.code + filler, missing, 1)


def _opens_shadow(site: Site) -> bool:
    return site.fusion is Fusion.SHADOW or site.forms[0].kind == "sti"


def give_up(bodies: Sequence[tuple[Site, NativeBody]], missing: int) -> frozenset[int]:
    """Addresses of the sites to leave native so that at least `missing` bytes are saved.

    Those that fault at CPL 1 go first: a trap serves them. The last ones first, so that what
    runs early is rewritten.
    """
    by_harm = sorted(
        bodies, key=lambda pair: (any(f.is_unprivileged for f in pair[0].forms), -pair[0].va)
    )
    chosen: set[int] = set()
    saved = 0
    for site, body in by_harm:
        if saved >= missing:
            break
        gain = len(body.code) - len(site.code)
        if gain:
            chosen.add(site.va)
            saved += gain
    return frozenset(chosen)
