# SPDX-License-Identifier: MIT
"""A small bzImage with Linux's boot code around a kernel with sites, and its debug twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.image.repack.forms import GNU, LINK_PA, BootCodeForm, FormFacts
from tests.image.repack.linked import bzimage, link
from tests.image.repack.test_pe_header import INIT_SIZE, Section, headers
from tests.rewrite.crowded_init import crowd
from tests.rewrite.smallkernel import TEXT_VA, SmallKernel, Word
from tests.support.elfbuilder import DATA, RODATA
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe, pack_payload
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.repack.payload_image import payload_image, stripped
from vmipatch.image.setup_header import HEADER_OFF

GZIP = Recipe(Compression.GZIP, Packer.LIBRARY, "-n -9")
BSS_LEN = 0x3000
CODE_OFF = 4 * 512
Front = Callable[[int], bytes]
PAGE = 4096


@dataclass(frozen=True, slots=True)
class BzImageSample:
    """Files as a distribution has them, and what `rewrite` makes of them."""

    original: Path
    twin: Path
    output: Path


def small_linux(*, crowded: bool = False) -> bytes:
    """A vmlinux with sites, branches that become near, and data that points to code.

    If `crowded`, with initial code without room, all whose sites have relocated words about them.
    """
    kernel = SmallKernel()
    text = kernel.text
    text.function("start_kernel", "fa 9c 58 fb f4 c3")
    text.function("idle", "eb 06 fa fb fa fb fa fb c3")
    text.function("control", "0f20c0 0f22c0 c3")
    if crowded:
        text.function("f", "fa c3")
    # Longer than boot code, so that no length of the kernel is a place in it.
    end_va = TEXT_VA + 0x20000
    text.put(b"\xcc" * (end_va - (PAGE // 2 if crowded else 0) - text.end_va))
    rodata = kernel.block(".rodata", end_va, RODATA)
    rodata.put(Word("idle"), Word("control"))
    rodata.put(bytes(-rodata.end_va % PAGE))
    end_va = rodata.end_va
    if crowded:
        init = crowd(kernel, end_va, slack_len=0)
        init.put(bytes(-init.end_va % PAGE))
        end_va = init.end_va
    data = kernel.block(".data", end_va, DATA)
    data.label("variable")
    data.put(Word("start_kernel"), bytes(0x40000))
    builder = kernel.builder()
    end = max(block.end_va for block in kernel.blocks)
    builder.nobits(".bss", -(-end // PAGE) * PAGE, BSS_LEN)
    return builder.build()


def around(vmlinux: bytes, form: BootCodeForm = GNU, front: Front | None = None) -> bytes:
    """A bzImage of `vmlinux`; `front` makes its beginning from the end of its file and memory."""
    image = ElfImage.parse(vmlinux)
    relocs = relocation_list(image, Relocations.of(image))
    unpacked = payload_image(stripped(image), relocs, LINK_PA, "sample")
    sections = image.section_by_name
    end = max(s.end_va for s in image.allocated_sections)
    kernel = FormFacts(
        payload=pack_payload(GZIP, unpacked),
        output_len=len(unpacked),
        total_len=-(-(end - TEXT_VA) // PAGE) * PAGE,
        bss_len=sections[".bss"].va - TEXT_VA,
        text_len=sections[".rodata"].va - TEXT_VA,
        run_len=ElfImage.parse(unpacked).section_by_name[".bss"].off + end - sections[".bss"].va,
    )
    linked = link(kernel, form=form)
    begin = b"" if front is None else front(CODE_OFF + len(linked.code))
    return bzimage(linked, kernel, begin)


def pe_front(end: int) -> bytes:
    """Headers for EFI firmware, as Linux had them before 6.6."""
    sections: list[Section] = [
        (".setup", CODE_OFF - 0x200, 0x200, CODE_OFF - 0x200, 0x200),
        (".text", end - CODE_OFF, CODE_OFF, end - CODE_OFF, CODE_OFF),
        (".bss", INIT_SIZE, end, 0, 0),
    ]
    return bytes(headers(sections, end + INIT_SIZE)[:HEADER_OFF])


def make_sample(
    directory: Path,
    form: BootCodeForm = GNU,
    front: Front | None = None,
    vmlinux: bytes | None = None,
) -> BzImageSample:
    """A sample in `directory`, rewritten; of `small_linux()` unless told otherwise."""
    vmlinux = small_linux() if vmlinux is None else vmlinux
    directory.mkdir(exist_ok=True)
    sample = BzImageSample(*(directory / name for name in ("bzImage", "vmlinux", "bzImage.vmi")))
    sample.twin.write_bytes(vmlinux)
    sample.original.write_bytes(around(vmlinux, form, front))
    made = open_kernel(sample.original).rewrite(debug=open_kernel(sample.twin))
    assert made.packed is not None
    assert not made.packed.losses, made.packed.losses
    sample.output.write_bytes(made.data)
    return sample
