# SPDX-License-Identifier: MIT
"""Which kernel and which references of it go into an image that Xen starts?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vmipatch.errors import NotSupported
from vmipatch.files.file import sha256_of
from vmipatch.image.annotated import SECTION, is_annotated_13
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations, has_relocations
from vmipatch.limits import Limit
from vmipatch.names import base_name
from vmipatch.recover.image import with_own_symbols
from vmipatch.xen.domain0 import build_domain0

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile

SCHEMA: Final = "vmipatch.xen-image/1"
_OTHER_API: Final = (
    "its call sites are for a ROM of API 13, of which it calls a copy; the one for Xen answers 3.1 "
    "and is linked where it stands: `run --paravirt` serves such a kernel"
)


@dataclass(frozen=True, slots=True)
class XenImage:
    """An image that Xen starts as domain 0."""

    data: bytes = field(repr=False)
    memory: int
    """MiB that domain 0 has to have."""
    rom_len: int
    moves: int

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return sha256_of(self.data)

    def report(self, kernel: str, output: str) -> dict[str, Any]:
        """The JSON report (docs/schemas/xen-image-1.json)."""
        return {
            "kernel": base_name(kernel),
            "output": base_name(output),
            "output_len": len(self.data),
            "output_sha256": self.sha256,
            "memory": self.memory,
            "rom_len": self.rom_len,
            "moves": self.moves,
        }


def xen_image(file: KernelFile, *, initrd: bytes, append: str, memory: int) -> XenImage:
    """As KernelFile.xen_image says."""
    image = file.image
    if is_annotated_13(image):
        raise NotSupported(Limit.XEN_NOT_REWRITTEN, file=file.name, hint=_OTHER_API)
    if SECTION not in image.section_by_name:
        raise NotSupported(Limit.XEN_NOT_REWRITTEN, file=file.name)
    if has_relocations(image):
        moves = relocation_list(image, Relocations.of(image))
    elif file.bzimage is not None and file.bzimage.relocs:
        moves = file.bzimage.relocs
    else:
        raise NotSupported(Limit.NO_RELOCATIONS, file=file.name)
    named = image if len(image.symbols) else with_own_symbols(image)
    made = build_domain0(named, moves, initrd=initrd, append=append, memory=memory)
    return XenImage(made.data, made.memory, made.rom_len, made.moves)
