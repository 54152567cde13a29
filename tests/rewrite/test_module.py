# SPDX-License-Identifier: MIT
"""Is a rewritten module the same module with room for calls, for any loader?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.support.elfbuilder import DATA, RODATA
from tests.support.smallmodule import BranchTo, Distance, Short, SmallModule, Word
from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module
from vmipatch.image.relocations import RAW_REL
from vmipatch.restore.module import restore_module
from vmipatch.rewrite.module import MARK, rewrite_module
from vmipatch.scan.site import Reason
from vmipatch.verify.static.module import check_module
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import FINAL_TRANSLATION, NEAR_CALL, unpack_records


def rewritten(module: SmallModule) -> Module:
    return Module.parse(rewrite_module(module.build(), "small").data, "small")


def code_at(image: ElfImage, name: str, length: int) -> bytes:
    va = image.symbols.address(name)
    assert va is not None
    return image.read(va, length)


def led_to(image: ElfImage, va: int) -> int:
    """Where the displacement at `va` leads."""
    return (int.from_bytes(image.read(va, 4), "little") + va + 4) & 0xFFFFFFFF


def test_site_grows_and_what_it_pushes_follows() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa", BranchTo("printk"), BranchTo("g"), "c3")
    module.section(".text").function("g", "c3")
    image = rewritten(module).image
    f, printk = (image.symbols.by_name["f"].va, b"\x3e\x3e\x3e\x3e\xfa\xe8")
    assert image.read(f, 6) == printk
    assert led_to(image, f + 6) == outside(image, "printk")
    assert led_to(image, f + 11) == image.symbols.by_name["g"].va
    assert image.symbols.by_name["f"].size == 1 + 5 + 5 + 1 + 4


def outside(image: ElfImage, name: str) -> int:
    return next(s.va for s in image.symbols if s.name == name)


def test_every_executable_section_is_laid_out() -> None:
    module = SmallModule()
    for name in (".text.unlikely", ".init.text", ".exit.text"):
        module.section(name).function(name[1:], "0f32 c3")
    image = rewritten(module).image
    for name in ("text.unlikely", "init.text", "exit.text"):
        assert code_at(image, name, 6) == bytes.fromhex("3e3e3e 0f32 c3")


def test_record_of_init_code_stands_apart() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3")
    module.section(".init.text").function("start", "fb 90 c3")
    image = rewritten(module).image
    for name, symbol, call in (
        (MARK, "f", VmiCall.DISABLE_INTERRUPTS),
        (".vmi.annotation.init", "start", VmiCall.ENABLE_INTERRUPTS),
    ):
        (record,) = unpack_records(image.section_bytes(image.section_by_name[name]))
        assert (record.native_va, record.call) == (image.symbols.address(symbol), call)
        assert image.read(record.translation_va, 5) == NEAR_CALL


def test_sites_of_one_shape_share_a_thunk_and_its_translation() -> None:
    module = SmallModule()
    module.section(".text").function("f", "9c 58 9c 58 c3")
    image = rewritten(module).image
    records = list(unpack_records(image.section_bytes(image.section_by_name[MARK])))
    assert len(records) == 2
    assert {r.call_off for r in records} == {FINAL_TRANSLATION}
    (translation_va,) = {r.translation_va for r in records}
    assert led_to(image, translation_va + 1) == image.section_by_name[".vmi.text"].va


def test_short_branch_that_does_not_reach_becomes_near() -> None:
    module = SmallModule()
    module.section(".text").function("f", "c3")
    module.section(".text").function("g", "fa" * 80, Short("74", "f"), "c3")
    image = rewritten(module).image
    g = image.symbols.by_name["g"].va
    assert image.read(g + 400, 2) == bytes.fromhex("0f84")
    assert led_to(image, g + 402) == image.symbols.by_name["f"].va


def test_array_of_functions_keeps_its_stride() -> None:
    """KVM computes the address of a routine from its number."""
    module = SmallModule()
    text = module.section(".text")
    text.function("site", "fa" + "90" * 14 + "c3")  # ends at a boundary: no padding after it
    for index in range(4):
        text.function(f"op{index}", f"b8{index:02x}000000 c3", filler=b"\xcc")
    image = rewritten(module).image
    starts = [image.symbols.by_name[f"op{index}"].va for index in range(4)]
    assert [b - a for a, b in pairwise(starts)] == [16] * 3
    assert starts[0] % 16 == 0
    assert image.symbols.by_name["site"].size == 16 + 4


def test_words_and_tables_follow_instructions() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa fa 0f0b c3")
    module.section(".rodata", RODATA, 4).put(Word(".text", 2), Word("jiffies", 8))
    module.section("__ex_table", RODATA, 4).put(
        Distance(".text", 2), Distance(".text", 4), "00000000"
    )
    image = rewritten(module).image
    f, rodata = image.symbols.by_name["f"].va, image.section_by_name[".rodata"].va
    assert image.words(rodata, rodata + 8).tolist() == [f + 10, outside(image, "jiffies") + 8]
    table = image.section_by_name["__ex_table"].va
    insn, fixup = image.words(table, table + 8).tolist()
    assert (insn + table) & 0xFFFFFFFF == f + 10
    assert (fixup + table + 4) & 0xFFFFFFFF == f + 12


def test_no_address_of_the_linked_image_is_left_in_the_file() -> None:
    """The loader links the module elsewhere: what is stored are addends."""
    module = SmallModule()
    module.section(".text").function("f", "9c 58 fa", BranchTo("printk"), "c3")
    file = Module.parse(rewrite_module(module.build(), "small").data, "small").file
    for section in file.sections:
        assert section.va == 0
    for name in (MARK, ".vmi.thunks", ".vmi.translation"):
        section = file.section_by_name[name]
        relocated = offsets_of(file, f".rel{name}")
        data = file.section_bytes(section)
        for at in relocated:
            assert int.from_bytes(data[at : at + 4], "little", signed=True) in range(-4, 0x100)
    assert len(offsets_of(file, f".rel{MARK}")) == 4


def offsets_of(file: ElfImage, name: str) -> list[int]:
    raw = np.frombuffer(file.section_bytes(file.section_by_name[name]), RAW_REL)
    return [int(offset) for offset in raw["offset"].tolist()]


def test_module_without_sites_is_the_input_signature_included() -> None:
    module = SmallModule()
    module.section(".text").function("f", "c3")
    signed = module.build() + b"sig" + bytes(8) + b"\0\0\0\3" + b"~Module signature appended~\n"
    done = rewrite_module(signed, "small")
    assert (done.data, done.is_changed, done.signature_len) == (signed, False, 3 + 12 + 28)


def test_signature_of_a_rewritten_module_is_gone() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3")
    plain = module.build()
    signed = plain + b"sig" + bytes(8) + b"\0\0\0\3" + b"~Module signature appended~\n"
    done, unsigned = rewrite_module(signed, "small"), rewrite_module(plain, "small")
    assert done.signature_len == 3 + 12 + 28
    assert b"~Module signature" not in done.data
    assert Module.parse(done.data).image.section_by_name.keys() == (
        Module.parse(unsigned.data).image.section_by_name.keys()
    )


def test_same_input_gives_the_same_bytes() -> None:
    module = SmallModule()
    module.section(".text").function("f", "9c 58 fa 0f32", BranchTo("printk"), "c3")
    assert rewrite_module(module.build(), "a").data == rewrite_module(module.build(), "b").data


def test_rewritten_module_is_refused() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3")
    once = rewrite_module(module.build(), "small").data
    renamed = once.replace(b"\0.vmi.annotation\0", b"\0.vmx.annotation\0")
    assert renamed != once
    for data in (once, renamed):
        with pytest.raises(InputNotUnderstood, match="rewritten already"):
            rewrite_module(data, "small")


def test_bytes_that_are_no_instruction_are_refused() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3", "0fff" * 8, "ff ff")
    with pytest.raises(InputNotUnderstood, match="not an instruction"):
        rewrite_module(module.build(), "small")


def test_module_of_data_alone_stays_as_it_is() -> None:
    data = SmallModule().build()
    assert rewrite_module(data, "small").data == data


def test_loop_of_a_module_keeps_sites_native_and_the_rest_is_rewritten() -> None:
    module = SmallModule()
    text = module.section(".text")
    text.function("f", "fa " * 10, "40 " * 100, Short("e2", "f"), "c3")
    text.function("g", "9c 58 c3")
    data = module.build()
    done = rewrite_module(data, "small")
    kept = [site for site in done.scan.sites if site.reason is Reason.SHORT_BRANCH]
    assert len(kept) == 6, "128 bytes are in reach, 112 are taken, and each site would take four"
    assert [site.kind for site, _ in done.sites].count("pushf") == 1
    verdict = check_module(data, done.data)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def many(functions: int, idle: int) -> SmallModule:
    """A module with a section for each function, as -ffunction-sections makes them."""
    module = SmallModule()
    for number in range(functions):
        called = BranchTo(f"f{(number + 1) % functions}")
        module.section(f".text.f{number}").function(f"f{number}", "fa", called, "9c 58 c3")
    for number in range(idle):
        module.section(f".note.{number}", RODATA & 0).put(bytes(4))
    module.section(".data", DATA).put(Word("f1"), Word("printk"))
    return module


@pytest.mark.parametrize(("functions", "idle"), [(3, 222), (110, 20), (200, 10), (20, 900)])
def test_module_of_many_sections_is_rewritten_proven_and_restored(
    functions: int, idle: int
) -> None:
    data = many(functions, idle).build()
    done = rewrite_module(data, "small")
    assert len(done.sites) == 2 * functions
    verdict = check_module(data, done.data)
    assert verdict.holds, "\n".join(map(str, verdict.findings[:8]))
    assert restore_module(done.data, "small").data == data


def test_module_with_too_many_sections_is_not_said_to_be_damaged() -> None:
    with pytest.raises(InputNotUnderstood, match="more than vmipatch has room for") as caught:
        rewrite_module(many(260, 0).build(), "small")
    assert not isinstance(caught.value, MalformedImage)
