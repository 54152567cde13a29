# SPDX-License-Identifier: MIT
"""Does a bzImage of every form of boot code come back from what it was rewritten to?"""

from __future__ import annotations

import hashlib
import random
import struct

import pytest

from tests.image.repack.forms import FORMS, LINK_PA, BootCodeForm, FormFacts
from tests.image.repack.linked import bzimage, link
from tests.recover.test_complete import small
from tests.rewrite.smallkernel import DATA_VA, INT3, RODATA_VA, TEXT_VA
from vmipatch.choices import BootCodeChoice
from vmipatch.errors import InputNotUnderstood
from vmipatch.files.kernel import KernelFile
from vmipatch.files.open import open_bytes
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe, pack_payload
from vmipatch.image.reloc_list import emit_list, relocation_list
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.repack.payload_image import stripped
from vmipatch.restore import Gives

GZIP = Recipe(Compression.GZIP, Packer.LIBRARY, "-n -9")
BSS_VA, BSS_LEN = DATA_VA + 0x50000, 0x20000
NOISE_LEN = 0x8000
XEN_ENTRY = 1
NOTE = struct.pack("<III4sI", 4, 4, XEN_ENTRY, b"Xen", TEXT_VA)
NOTES_VA = DATA_VA - len(NOTE)
WORD_VA = DATA_VA - 4
"""The word of the note, which is at its end."""


def opened(data: bytes) -> KernelFile:
    file = open_bytes(data, "kernel")
    assert isinstance(file, KernelFile)
    return file


def pair(form: BootCodeForm, *, with_notes: bool = False) -> tuple[bytes, bytes]:
    """A bzImage with boot code of that form, and the vmlinux of the kernel in it.

    `with_notes`: its relocation list names the words of notes.
    """
    kernel = small()
    # The payload is longer than the boot code that unpacks it.
    # In the file segments follow each other as in memory: none is moved over the next.
    kernel.text.align(RODATA_VA - TEXT_VA, INT3)
    kernel.rodata().put(random.Random(0).randbytes(NOTES_VA - RODATA_VA))
    data = next(block for block in kernel.blocks if block.name == ".data")
    data.put(random.Random(1).randbytes(NOISE_LEN))
    data.align(BSS_VA - DATA_VA, bytes(1))
    builder = kernel.builder()
    builder.nobits(".bss", BSS_VA, BSS_LEN)
    builder.note(".notes", NOTES_VA, NOTE)
    builder.relocation(WORD_VA, R_386_32, "_text")
    image = builder.image()
    listed = relocation_list(image, Relocations.of(image), with_notes=with_notes)
    unpacked = stripped(image) + emit_list(listed)
    end_pa = BSS_VA + BSS_LEN - TEXT_VA + LINK_PA
    bss = ElfImage.parse(stripped(image)).section_by_name[".bss"]
    inside = FormFacts(
        payload=pack_payload(GZIP, unpacked),
        output_len=len(unpacked),
        total_len=end_pa - LINK_PA,
        bss_len=BSS_VA - TEXT_VA,
        text_len=image.section_by_name[".rodata"].va - TEXT_VA,
        run_len=bss.off + BSS_LEN,
    )
    return bzimage(link(inside, form=form), inside), image.data


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_bzimage_comes_back_with_its_boot_code(form: BootCodeForm) -> None:
    data, vmlinux = pair(form)
    done = opened(data).rewrite(debug=opened(vmlinux), boot_code=BootCodeChoice.KEEP)
    assert done.data != data
    assert opened(done.data).restore().data == data


@pytest.mark.parametrize("choice", [BootCodeChoice.KEEP, BootCodeChoice.OWN])
@pytest.mark.parametrize("with_notes", [False, True])
def test_list_names_words_of_notes_as_it_did(with_notes: bool, choice: BootCodeChoice) -> None:
    data, vmlinux = pair(next(iter(FORMS.values())), with_notes=with_notes)
    done = opened(opened(data).rewrite(debug=opened(vmlinux), boot_code=choice).data)
    assert done.bzimage is not None
    assert done.bzimage.relocs is not None
    kernel = ElfImage.parse(done.bzimage.vmlinux)
    word_off = kernel.data.index(NOTE[:-4]) + len(NOTE) - 4
    (word_va,) = (
        s.va + word_off - s.off for s in kernel.loads if 0 <= word_off - s.off < s.file_len
    )
    assert (word_va in done.bzimage.relocs) is with_notes


def test_kernel_comes_back_from_an_output_with_other_boot_code() -> None:
    data, vmlinux = pair(next(iter(FORMS.values())))
    done = opened(data).rewrite(debug=opened(vmlinux), boot_code=BootCodeChoice.OWN)
    back = opened(done.data).restore()
    was = opened(data).bzimage
    assert was is not None and back.data == was.vmlinux
    assert back.gives is Gives.PAYLOAD
    assert back.sha256 == hashlib.sha256(was.vmlinux).hexdigest()
    assert done.noted is not None and done.noted.gives is Gives.PAYLOAD


def test_bzimage_of_wrap_has_no_way_back() -> None:
    _, vmlinux = pair(next(iter(FORMS.values())))
    own = opened(vmlinux).wrap()
    with pytest.raises(InputNotUnderstood, match="nothing tells what it was made from"):
        opened(own.data).restore()
