# SPDX-License-Identifier: MIT
"""Does a bzImage of every form of boot code come back from what it was rewritten to?"""

from __future__ import annotations

import random

import pytest

from tests.image.repack.forms import FORMS, LINK_PA, Form, Kernel
from tests.image.repack.linked import bzimage, link
from tests.recover.test_complete import small
from tests.rewrite.smallkernel import DATA_VA, INT3, RODATA_VA, TEXT_VA
from vmipatch.choices import BootCodeChoice
from vmipatch.files.kernel import KernelFile
from vmipatch.files.open import open_bytes
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Maker, Recipe, pack_payload
from vmipatch.image.reloc_list import emit_list, relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.repack.payload_image import stripped

GZIP = Recipe(Compression.GZIP, Maker.LIBRARY, "-n -9")
BSS_VA, BSS_LEN = DATA_VA + 0x50000, 0x20000
NOISE_LEN = 0x8000


def opened(data: bytes) -> KernelFile:
    file = open_bytes(data, "kernel")
    assert isinstance(file, KernelFile)
    return file


def pair(form: Form) -> tuple[bytes, bytes]:
    """A bzImage with boot code of that form, and the vmlinux of the kernel in it."""
    kernel = small()
    # The payload is longer than the boot code that unpacks it.
    # In the file segments follow each other as in memory: none is moved over the next.
    kernel.text.align(RODATA_VA - TEXT_VA, INT3)
    kernel.rodata().put(random.Random(0).randbytes(DATA_VA - RODATA_VA))
    data = next(block for block in kernel.blocks if block.name == ".data")
    data.put(random.Random(1).randbytes(NOISE_LEN))
    data.align(BSS_VA - DATA_VA, bytes(1))
    builder = kernel.builder()
    builder.nobits(".bss", BSS_VA, BSS_LEN)
    image = builder.image()
    unpacked = stripped(image) + emit_list(relocation_list(image, Relocations.of(image)))
    end_pa = BSS_VA + BSS_LEN - TEXT_VA + LINK_PA
    bss = ElfImage.parse(stripped(image)).section_by_name[".bss"]
    inside = Kernel(
        payload=pack_payload(GZIP, unpacked),
        output_len=len(unpacked),
        total_len=end_pa - LINK_PA,
        bss_len=BSS_VA - TEXT_VA,
        text_len=image.section_by_name[".rodata"].va - TEXT_VA,
        run_len=bss.off + BSS_LEN,
    )
    return bzimage(link(inside, form=form), inside), image.data


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_bzimage_comes_back_with_its_boot_code(form: Form) -> None:
    data, vmlinux = pair(form)
    done = opened(data).rewrite(debug=opened(vmlinux), boot_code=BootCodeChoice.KEEP)
    assert done.data != data
    assert opened(done.data).restore().data == data
