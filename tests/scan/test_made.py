# SPDX-License-Identifier: MIT
"""Is code that a kernel makes while it runs in the ledger, with what is sensitive in it?"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.support.elfbuilder import RODATA
from tests.support.smallmodule import SmallModule
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module
from vmipatch.scan.made import MAKERS, made_at_run_time


def image_with(*functions: str, template: str = "") -> ElfImage:
    module = SmallModule()
    for name in functions:
        module.section(".text").function(name, "c3")
    if template:
        data = module.section(".rodata", RODATA, 4)
        data.function("optprobe_template_entry", template)
        data.function("optprobe_template_end", "00")
    return Module.parse(module.build()).image


def test_what_a_kernel_lacks_is_not_listed() -> None:
    assert made_at_run_time(image_with("f")) == ()
    (found,) = made_at_run_time(image_with("f", "bpf_int_jit_compile"))
    assert (found.maker.what, found.template, found.sensitive) == (
        "compiled BPF programs", None, {},
    )  # fmt: skip


def test_sensitive_instructions_of_a_template_are_counted() -> None:
    image = image_with("arch_prepare_optimized_kprobe", template="9c 60 61 9d 90")
    (found,) = made_at_run_time(image)
    assert found.sensitive == {"popf": 1, "pushf": 1}
    start = image.symbols.address("optprobe_template_entry")
    assert start is not None
    assert found.template == (start, start + 8)  # filled up to where the next symbol is


@pytest.mark.kernels
def test_makers_of_a_kernel(kernel: KernelFinder) -> None:
    image = ElfImage.parse(kernel("smp-pae").read_bytes(), "smp-pae")
    found = {made.maker.what: made.sensitive for made in made_at_run_time(image)}
    assert found.keys() == {maker.what for maker in MAKERS}
    assert found.pop("optimised kprobes") == {
        "popf": 1, "push segment": 3, "push ss": 1, "pushf": 1,
    }  # fmt: skip
    assert not any(found.values())
