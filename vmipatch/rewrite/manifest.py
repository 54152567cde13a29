# SPDX-License-Identifier: MIT
"""What does a rewritten kernel say about itself? The JSON in its .vmi.manifest section."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START
from vmipatch.rewrite.attach import Added
from vmipatch.rewrite.placement import Placement
from vmipatch.rewrite.trampoline import Trampoline
from vmipatch.scan.site import Disposition, Site

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class NativeSite:
    """A sensitive instruction that was left as it was, at its new address."""

    va: int
    kind: str
    disposition: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The claims that the static check holds the file against."""

    version: int
    input_sha256: str
    mode: str
    """`absorb`: nothing after .text moved; `shift`: everything after it moved by shift_len."""
    shift_len: int
    padding: str
    sites: dict[str, int] = field(hash=False)
    """Number of sites by disposition."""
    native: tuple[NativeSite, ...]
    dropped: tuple[str, ...]
    """Sections that were emptied, because they would be stale."""
    redirect: tuple[tuple[int, int], ...]
    """Original address and new one, for branches that target the runtime instead."""
    trampolines: tuple[tuple[int, int, int, int], ...]
    """Original address and bytes of each window that is a jump now; new address and bytes of its
    trampoline."""
    start: str
    """The function before which the runtime runs; said where it is not Linux's."""
    keep: tuple[str, ...]
    """Two symbols, `START..END`, around each range that a user had kept; said if there is one."""

    def to_json(self) -> bytes:
        """Sorted and compact, the same bytes for the same claims."""
        content = asdict(self)
        if self.start == START:
            del content["start"]
        if not self.keep:
            del content["keep"]
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def manifest_of(
    image: ElfImage,
    sites: Iterable[Site],
    placement: Placement,
    padding: Padding,
    added: Added,
    trampolines: Iterable[Trampoline] = (),
    keep: Iterable[str] = (),
) -> Manifest:
    """State what was done to `image`."""
    every = list(sites)
    left = (Disposition.NATIVE_TRAPPING, Disposition.NATIVE_UNPRIVILEGED)
    return Manifest(
        MANIFEST_VERSION,
        image.file_sha256,
        "shift" if placement.shift_len else "absorb",
        placement.shift_len,
        padding.value,
        dict(sorted(Counter(site.disposition.value for site in every).items())),
        tuple(
            NativeSite(
                placement.map.one(site.va), site.kind, site.disposition.value, site.reason.value
            )
            for site in every
            if site.disposition in left
        ),
        image.debug_names,
        tuple(sorted(added.redirect.items())),
        tuple((t.window.start_va, t.window.size, t.va, len(t.code)) for t in trampolines),
        added.start,
        tuple(sorted(set(keep))),
    )
