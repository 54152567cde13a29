# SPDX-License-Identifier: MIT
"""How the runtime is assembled for one kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from importlib import resources

from vmipatch.isa.assemble import assemble
from vmipatch.isa.lengths import IMMEDIATES, groups, opcode_maps
from vmipatch.vmi.calls import API_MAJOR, API_MINOR, VmiCall
from vmipatch.vmi.record import MERGE_FLAGS

SOURCES = (
    "job.S", "entry.S", "find_rom.S", "check.S", "patch.S", "module.S", "scan.S", "log.S",
    "messages.S",
)  # fmt: skip
"""In the order in which they run, and can be read."""

_LEVEL = re.compile(r"\\001(\d)")
"""How messages.S marks the level of a line."""


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What the runtime has to know of the kernel it stands in. Addresses are linked ones."""

    page_offset: int
    """Where low memory is mapped: PAGE_OFFSET."""
    start_kernel: int
    printk: int
    """The kernel's printk, 0 if it has none."""
    old_levels: int
    """1 if it marks the level of a line as `<6>`, as before 3.6, else 0."""
    module_finalize: int
    """What its module loader calls last, 0 if it has no modules."""
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
    and 0 if there is none): at CPL 0 it stays native."""
    keep_calls: int
    keep_value: int
    """A byte and what is to be written there, so that the kernel copies no instructions over its
    paravirt calls; 0 and 0 if it copies none."""


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
        "merge_flags": MERGE_FLAGS,
        "api_major": API_MAJOR,
        "api_minor": API_MINOR,
    }
    package = resources.files("vmipatch.runtime")
    source = "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)
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


def opcode_tables() -> str:
    """What scan.S looks opcodes up in."""
    one, two = opcode_maps()
    rows = [
        f".byte {opcode & 0xFF}, {opcode >> 8}, {memory}, {register}"
        for opcode, memory, register in groups()
    ]
    tables = (("vmi_one_byte", one), ("vmi_two_byte", two), ("vmi_immediates", IMMEDIATES))
    lines = [f"{label}:\n.byte {', '.join(map(str, data))}" for label, data in tables]
    return "\n".join([*lines, "vmi_groups:", *rows, ".byte 0xff, 0xff"])
