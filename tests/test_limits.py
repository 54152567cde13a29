# SPDX-License-Identifier: MIT
"""Is what vmipatch does not support one list, and is each row of it refused by that name?"""

from __future__ import annotations

import ast
import gzip
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hostile.bombs import many_code_sections
from tests.image.test_bzimage import KERNEL, bzimage
from tests.image.test_multiboot import first
from tests.image.test_wrap import broken, pair
from tests.recover.stripped import ship
from tests.recover.taken_out import without_relocations
from tests.rewrite.smallkernel import SmallKernel
from tests.rewrite.test_among_data import kernel as with_data
from tests.scan.test_annotated import kernel as annotated
from tests.support.elfbuilder import TEXT, ElfBuilder
from tests.support.smallmodule import SmallModule
from tests.xen.heads import builder
from vmipatch.errors import ExitCode, NotSupported
from vmipatch.files.open import open_any, open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel, ReferencesFrom
from vmipatch.image.packed import unpack
from vmipatch.image.wrap import wrap
from vmipatch.limits import Limit
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.emit_image import annotation_start_va
from vmipatch.rewrite.module import rewrite_module
from vmipatch.rewrite.reach import Stuck, _given_for
from vmipatch.scan import scan
from vmipatch.xen.kernel import find_places

ROOT = Path(__file__).parents[1]
SECTION = "## What is refused"
MIB = 1 << 20


def small(*code: str) -> SmallKernel:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", *(code or ("fa c3",)))
    return kernel


def foreign() -> None:
    ElfImage.parse(KERNEL[:18] + (40).to_bytes(2, "little") + KERNEL[20:])


def foreign_payload() -> None:
    packed = bzimage(gzip.compress(KERNEL[:4] + b"\2" + KERNEL[5:]))
    open_kernel(packed).scan()


def without_sections() -> None:
    image, relocs = ship(small())
    renamed = tuple(s for s in image.sections if s.name != ".text")
    names = {section.name: section for section in renamed}
    recover(replace(image, sections=renamed, section_by_name=names), relocs)


def newer_kallsyms() -> None:
    """Tokens that make names, and nothing around them that fits."""
    image, relocs = ship(small())
    section = image.section_by_name[".kallsyms"]
    data = bytearray(image.data)
    data[section.off : section.off + 4] = b"\xff\xff\xff\x7f"
    recover(ElfImage.parse(bytes(data)), relocs)


def without_room() -> None:
    """A kernel alone in which all code but one site is in doubt, and whose last page is full."""
    kernel = small("fa fb f4 c3")
    kernel.text.put(b"\x40" * (-kernel.text.end_va % 0x1000 - 1), "c3")
    fixed = tuple((va, va) for va in (kernel.va("start_kernel"), kernel.text.end_va))
    image = kernel.image()
    rewrite(LinkedKernel(image, image, ReferencesFrom.RECOVERED, fixed))


def too_high() -> None:
    image = small().image()
    first, *rest = image.segments
    high = replace(first, va=0xFFFFE000, mem_len=0x1000)
    annotation_start_va(replace(image, segments=(high, *rest)), 0)


def one_name_table() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3")
    data = bytearray(module.build())
    image = ElfImage.parse(bytes(data))
    (table,) = (s for s in image.sections if s.name == ".symtab")
    at = int.from_bytes(data[32:36], "little") + 40 * table.index + 24
    data[at : at + 4] = data[50:52] + b"\0\0"
    rewrite_module(bytes(data), "m.ko")


def stuck() -> None:
    """No site around it could be left native."""
    _given_for(Stuck(0xC1000000, "loop has no near form", 3, ((0xC1000000, 0xC1000080),)), (), {})


def taken_out() -> None:
    data, _ = without_relocations(small())
    open_kernel(data).rewrite()


def never_entered() -> None:
    kernel = small()
    kernel.is_entered = False
    open_kernel(kernel.build()).rewrite()


def with_addresses() -> None:
    kernel = SmallKernel(room=False)
    kernel.text.function("start_kernel", "fa c3")
    kernel.text.put(bytes(-kernel.text.end_va % 4), first(1 << 16, bytes(20)))
    rewrite(kernel.image())


def header_after_code() -> None:
    """Code before the header grows, and the header is the last that is still in 8192 bytes."""
    kernel = SmallKernel(room=False)
    kernel.text.function("entry", "fbf4 fbf4 c3")
    kernel.text.put(b"\x90" * (8192 - 12 - 0x1000 - len(kernel.text.data)), first(3))
    kernel.text.function("start_kernel", "fa c3")
    rewrite(kernel.image())


def symbols_gone() -> None:
    image, relocs = ship(small(), kallsyms=None)
    recover(image, relocs)


SAMPLES: dict[Limit, tuple[Callable[[], object], ...]] = {
    Limit.ARCHITECTURE: (foreign, foreign_payload),
    Limit.ZIMAGE: (lambda: open_kernel(bzimage(b"", loadflags=0)).scan(),),
    Limit.BOOT_PROTOCOL: (lambda: open_kernel(bzimage(b"", version=0x0206)).scan(),),
    Limit.NO_PAYLOAD: (lambda: open_kernel(bzimage(b"", payload_length=0)).scan(),),
    Limit.PAYLOAD: (lambda: open_kernel(bzimage(gzip.compress(b"\x90" * 99))).scan(),),
    Limit.COMPRESSION: (lambda: open_kernel(bzimage(b"\xde\xad\xbe\xef" * 9)).scan(),),
    Limit.PACKED_WHOLE: (lambda: open_kernel(gzip.compress(KERNEL)).rewrite(),),
    Limit.AFTER_STREAM: (lambda: unpack(2 * gzip.compress(SmallModule().build()), "m.ko.gz"),),
    Limit.NO_RELOCATIONS: (lambda: recover(ship(small())[0], None),),
    Limit.RELOCATIONS_TAKEN_OUT: (taken_out,),
    Limit.NO_SECTIONS: (without_sections,),
    Limit.MANY_SECTIONS: (
        lambda: ElfImage.parse(many_code_sections(600)),
        lambda: ElfImage.parse(many_code_sections(17000, relocatable=True)),
    ),
    Limit.NO_SYMBOLS: (symbols_gone,),
    Limit.KALLSYMS: (newer_kallsyms,),
    Limit.NO_ROOM: (without_room,),
    Limit.CODE_AMONG_DATA: (lambda: scan(with_data("fa c3").image()),),
    Limit.DATA_AMONG_CODE: (lambda: rewrite(small("fa 0fff c0 c3").image()),),
    Limit.REFERENCE: (lambda: rewrite(small("fa eb01 b8 01000000 c3").image()),),
    Limit.STUCK_BRANCH: (stuck,),
    Limit.BOOT_HEADER: (with_addresses, header_after_code),
    Limit.NOT_ENTERED: (never_entered, lambda: open_kernel(SmallKernel().build()).rewrite()),
    Limit.TOO_HIGH: (too_high,),
    Limit.ONE_NAME_TABLE: (one_name_table,),
    Limit.WRAP_PLACE: (lambda: wrap(broken(pa=0x1000), None),),
    Limit.WRAP_SEGMENTS: (lambda: wrap(replace(pair(16 * MIB)[0], segments=()), None),),
    Limit.ANNOTATED: (lambda: open_kernel(annotated().build()).rewrite(),),
    Limit.XEN_NOT_REWRITTEN: (lambda: open_kernel(small().image().data).xen_image(),),
    Limit.XEN_PAE: (lambda: find_places(builder(pae=False).image()),),
    Limit.XEN_START: (lambda: find_places(small().image()),),
    Limit.WRAP_DISTANCE: (lambda: wrap(broken(va=0xD0000000), pair(16 * MIB)[1]),),
}
"""For each row something that meets it."""


@pytest.mark.parametrize(
    ("limit", "number"),
    [(limit, number) for limit in Limit for number in range(len(SAMPLES.get(limit, (None,))))],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_each_limit_is_refused_by_its_name(limit: Limit, number: int) -> None:
    with pytest.raises(NotSupported) as caught:
        SAMPLES[limit][number]()
    assert caught.value.limit is limit
    assert caught.value.exit_code is ExitCode.INPUT
    assert "damaged" not in str(caught.value)
    assert caught.value.hint


def test_guide_lists_what_the_code_refuses() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    part = text.partition(SECTION)[2].partition("\n## ")[0]
    lines = [row for row in part.splitlines() if "|" in row]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in lines]
    assert rows[2:] == [[limit.what, limit.remedy] for limit in Limit]


def test_every_limit_is_met_somewhere_in_the_code() -> None:
    sources = [p for p in (ROOT / "vmipatch").rglob("*.py") if p.name != "limits.py"]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    named = {node.attr for node in attributes if ast.unparse(node.value) == "Limit"}
    assert named == {limit.name for limit in Limit}


def test_limit_survives_the_way_to_another_process() -> None:
    with pytest.raises(NotSupported) as caught:
        foreign()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.limit) == (str(caught.value), Limit.ARCHITECTURE)


def test_other_files_of_the_world_are_not_called_damaged(tmp_path: Path) -> None:
    builder = ElfBuilder()
    builder.section(".text", 0xC1000000, b"\xfa\xc3", TEXT)
    for name, data in (("script", b"#!/bin/sh\n" * 99), ("elf", builder.build())):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Exception, match=name) as caught:
            opened = open_any(path)
            opened.rewrite()  # type: ignore[call-arg]
        assert "damaged" not in str(caught.value)
