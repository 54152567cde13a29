# SPDX-License-Identifier: MIT
"""All thunks of a kernel, linked: which site calls which, and what the runtime has to fill in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vmipatch.isa.assemble import assemble
from vmipatch.rewrite.translate import ADDRESS, MERGE, ThunkCode, Untranslatable, thunk_code
from vmipatch.scan.site import Site
from vmipatch.vmi.calls import VmiCall


@dataclass(frozen=True, slots=True)
class ThunkCall:
    """A near call inside a thunk, for the runtime to aim at the ROM."""

    va: int
    call: VmiCall


@dataclass(frozen=True)
class Thunks:
    """All thunks of a kernel, linked."""

    va: int
    code: bytes = field(repr=False)
    of_site: dict[int, int] = field(hash=False)
    """Thunk address by original site address; sites that need none are missing."""
    calls: tuple[ThunkCall, ...]
    merges: tuple[int, ...]
    """Where real flags and virtual interrupt flag are merged (see MERGE)."""
    words: tuple[tuple[int, int], ...]
    """Places of absolute words in the code, and the original words that they repeat."""


@dataclass(slots=True)
class _Book:
    """Thunks by their code: equal ones are made once."""

    numbers: dict[ThunkCode, int] = field(default_factory=dict)
    of_site: dict[int, int] = field(default_factory=dict)

    def enter(self, site: Site, code: ThunkCode) -> None:
        self.of_site[site.va] = self.numbers.setdefault(code, len(self.numbers))


def build_thunks(sites: Iterable[Site], va: int) -> Thunks:
    """Make and link the thunks of all `sites` that need one, at `va`."""
    book = _Book()
    for site in sites:
        code = thunk_code(site)
        if code is not None:
            book.enter(site, code)
    source: list[str] = []
    calls: dict[str, VmiCall] = {}
    merges: list[str] = []
    for code, number in book.numbers.items():
        source += _link(code, number, calls, merges)
    linked = assemble("\n".join(source), va, name="thunks")
    at = linked.labels
    words = tuple(
        (at[f"t{number}_word"], code.address.word_va)
        for code, number in book.numbers.items()
        if code.address is not None and code.address.word_va is not None
    )
    return Thunks(
        va,
        linked.code,
        {site_va: at[f"t{number}"] for site_va, number in book.of_site.items()},
        tuple(ThunkCall(at[label], call) for label, call in calls.items()),
        tuple(at[label] for label in merges),
        words,
    )


def _link(code: ThunkCode, number: int, calls: dict[str, VmiCall], merges: list[str]) -> list[str]:
    """The lines of one thunk with labels; notes the calls it makes, and where it merges flags."""
    result = [f"t{number}:"]
    for line in code.lines:
        if line.startswith("call "):
            label = f"t{number}_call{len(calls)}"
            calls[label] = VmiCall(int(line[5:]))
            result.append(f"{label}: .byte 0xe8, 0, 0, 0, 0")
        elif line.startswith(MERGE):
            label = f"t{number}_merge{len(merges)}"
            merges.append(label)
            register = line.removeprefix(MERGE)
            target = "eax" if register == "ecx_to_eax" else register
            flags = "ecx" if register == "ecx_to_eax" else register
            result.append(f"{label}: lea {target}, [{flags} + eax - 0x200]")
        elif line == ADDRESS:
            assert code.address is not None, "a call that takes an address brings it"
            head = ", ".join(str(byte) for byte in code.address.head)
            result += [
                f".byte {head}",
                f"t{number}_word: .long {code.address.displacement:#x}",
            ]
        else:
            result.append(line.replace("{label}", f"t{number}_"))
    return result


def untranslatable(sites: Iterable[Site]) -> frozenset[int]:
    """Addresses of those `sites` that have no translation."""
    result = set()
    for site in sites:
        try:
            thunk_code(site)
        except Untranslatable:
            result.add(site.va)
    return frozenset(result)
