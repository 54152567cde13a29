# SPDX-License-Identifier: MIT
"""How the runtime is assembled for one kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from importlib import resources

from vmipatch.isa.assemble import assemble
from vmipatch.isa.lengths import IMMEDIATES, groups, opcode_maps
from vmipatch.vmi.api13 import MAJOR_13
from vmipatch.vmi.calls import API_MAJOR, API_MINOR, VmiCall
from vmipatch.vmi.record import MERGE_FLAGS
from vmipatch.vmi.shared import ANSWERS_SIGNATURE, RomMark

SOURCES = (
    "job.S", "entry.S", "find_rom.S", "check.S", "patch.S", "module.S", "scan.S", "log.S",
    "messages.S",
)  # fmt: skip
"""In the order in which they run, and can be read."""
MAPPED = "mapped.S"
"""The source that is added for a kernel that may not have mapped the place of ROMs."""
ROMS_PA = 0xC0000

_LEVEL = re.compile(r"\\001(\d)")
"""How messages.S marks the level of a line."""


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """The runtime's facts about the kernel it stands in. Addresses are linked ones."""

    page_offset: int
    """Where low memory is mapped: PAGE_OFFSET."""
    start_kernel: int
    printk: int
    """The kernel's printk, 0 if it has none."""
    old_levels: int
    """1 if it marks the level of a line as `<6>`, as before 3.6, else 0."""
    module_finalize: int
    """The function that its module loader calls last, 0 if it has no modules."""
    annotation: int
    annotation_end: int
    """Records of permanent and then of init code."""
    thunk_calls: int
    thunk_calls_end: int
    fallback: int
    fallback_end: int
    sum_start: int
    sum_end: int
    """The annotation segment, which is summed up before anything is believed."""
    copy: int
    copy_len: int
    """Where the ROM may be copied to."""
    text: int
    text_end: int
    """Where thunks and runtime are."""
    entry_text: int
    entry_text_end: int
    """Code that may run on the page tables of user space, which map nothing else of the kernel (0
    and 0 if missing): at CPL 0 it stays native."""
    keep_calls: int
    keep_value: int
    """A byte and what is to be written there, so that the kernel copies no instructions over its
    paravirt calls; 0 and 0 if it copies none."""
    image_pa: int
    image_end_pa: int
    """Physical addresses of the image, in which page tables are looked at; 0 and 0 where the place
    of ROMs is known to be mapped."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The linked runtime.

    `entry` takes the place of start_kernel for its callers, `module_entry` that of module_finalize.
    """

    va: int
    code: bytes = field(repr=False)
    entry: int
    module_entry: int
    segment_sum_va: int
    """Where the sum of the annotation segment's u32 words (modulo 2^32) is to be written."""
    native_sum_va: int
    """Where the sum of the first two bytes (u16) of all sites is to be written."""


def build_runtime(facts: RuntimeFacts, va: int) -> Runtime:
    """Assemble the runtime at `va`. Raises AssemblyFailed."""
    symbols = {f"fact_{f.name}": getattr(facts, f.name) for f in fields(facts)}
    symbols |= {
        "call_read_segment": int(VmiCall.READ_SEGMENT),
        "call_set_fallback": int(VmiCall.SET_FALLBACK),
        "call_set_runtime": int(VmiCall.SET_RUNTIME),
        "call_iret": int(VmiCall.IRET),
        "call_halt": int(VmiCall.HALT),
        "call_get_interrupt_mask": int(VmiCall.GET_INTERRUPT_MASK),
        "merge_flags": MERGE_FLAGS,
        "api_major": API_MAJOR,
        "api_minor": API_MINOR,
        "older_major": MAJOR_13,
        "answers_off": int(RomMark.ANSWERS),
        "answers_signature": ANSWERS_SIGNATURE,
    }
    package = resources.files("vmipatch.runtime")
    names = [*SOURCES, MAPPED] if facts.image_end_pa else SOURCES
    symbols |= _entries_of_roms(facts.page_offset) if facts.image_end_pa else {}
    source = "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in names)
    if facts.image_end_pa:
        source = source.replace("call vmi_find_rom ", "call vmi_find_mapped_rom ")
    if facts.old_levels:
        source = _LEVEL.sub(r"<\1>", source)
    linked = assemble(f"{source}\n{opcode_tables()}", va, symbols=symbols, name="runtime")
    at = linked.labels
    return Runtime(
        va,
        linked.code,
        at["vmi_start"],
        at["vmi_module"],
        at["vmi_segment_sum"],
        at["vmi_native_sum"],
    )


def _entries_of_roms(page_offset: int) -> dict[str, int]:
    """Where in each level of page tables the entries of the first ROM are (Intel SDM volume 3,
    chapter 4), by entries of 4 and of 8 bytes.
    """
    va = page_offset + ROMS_PA & 0xFFFFFFFF
    return {
        "rom_directory_off": va >> 22 << 2,
        "rom_table_off": (va >> 12 & 0x3FF) << 2,
        "rom_pointer_off": va >> 30 << 3,
        "rom_directory_off_8": (va >> 21 & 0x1FF) << 3,
        "rom_table_off_8": (va >> 12 & 0x1FF) << 3,
    }


def opcode_tables() -> str:
    """The tables that scan.S looks opcodes up in."""
    one, two = opcode_maps()
    rows = [
        f".byte {opcode & 0xFF}, {opcode >> 8}, {memory}, {register}"
        for opcode, memory, register in groups()
    ]
    tables = (("vmi_one_byte", one), ("vmi_two_byte", two), ("vmi_immediates", IMMEDIATES))
    lines = [f"{label}:\n.byte {', '.join(map(str, data))}" for label, data in tables]
    return "\n".join([*lines, "vmi_groups:", *rows, ".byte 0xff, 0xff"])
