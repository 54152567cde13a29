# SPDX-License-Identifier: MIT
"""Which code does a kernel make while it runs, and what of it is sensitive?

No file holds such code, so it cannot be rewritten: the ledger names it, with the reason why it does
what it should at CPL 1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vmipatch.image.elf import ElfImage
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import decode


@dataclass(frozen=True, slots=True)
class CodeMaker:
    """Something in Linux that writes code."""

    what: str
    function: str
    """The kernel has it if it has this function."""
    reason: str
    """Why its code is right at CPL 1."""
    source: str
    template: tuple[str, str] | None = None
    """The symbols around what it copies."""


MAKERS = (
    CodeMaker(
        "optimised kprobes",
        "arch_prepare_optimized_kprobe",
        "pushf and popf keep the arithmetic flags around the handler; popf leaves the interrupt "
        "flag alone at CPL 1, and the handler is shown the real one, which is always on, and SS "
        "with the RPL that it has",
        "arch/x86/kernel/kprobes/opt.c",
        ("optprobe_template_entry", "optprobe_template_end"),
    ),
    CodeMaker(
        "copies of probed instructions",
        "arch_prepare_kprobe",
        "of one instruction as it stands after the patching: a VMI call is emulated by the kernel "
        "as every call is, and what was left native faults in the copy as it does in its place",
        "arch/x86/kernel/kprobes/core.c",
    ),
    CodeMaker(
        "calls of the function tracer",
        "ftrace_make_call",
        "calls and nops of 5 bytes in places of __mcount_loc; i386 makes no trampolines, and what "
        "is called is code of the kernel",
        "arch/x86/kernel/ftrace.c",
    ),
    CodeMaker(
        "jump labels",
        "arch_jump_label_transform",
        "jumps and nops in places of __jump_table",
        "arch/x86/kernel/jump_label.c",
    ),
    CodeMaker(
        "static calls",
        "arch_static_call_transform",
        "calls, jumps and returns in places of their own",
        "arch/x86/kernel/static_call.c",
    ),
    CodeMaker(
        "compiled BPF programs",
        "bpf_int_jit_compile",
        "the compiler emits moves, arithmetic, branches and calls, and nothing sensitive",
        "arch/x86/net/bpf_jit_comp32.c",
    ),
)


@dataclass(frozen=True, slots=True)
class Made:
    """Code that a kernel makes."""

    maker: CodeMaker
    template: tuple[int, int] | None
    """[start, end) of what is copied, if the kernel has symbols around it."""
    sensitive: dict[str, int] = field(hash=False)
    """Sensitive instructions of the template by class."""


def made_at_run_time(image: ElfImage) -> tuple[Made, ...]:
    """The `MAKERS` that `image` has; nothing is known of an image without symbols."""
    names = image.symbols.by_name
    return tuple(_made(image, maker) for maker in MAKERS if maker.function in names)


def _made(image: ElfImage, maker: CodeMaker) -> Made:
    start, end = (image.symbols.address(name) for name in maker.template or ("", ""))
    if start is None or end is None or not end - start > 0:
        return Made(maker, None, {})
    stream = decode(image.read(start, end - start), start)
    forms = (classify(stream.bytes_at(index)) for index in range(len(stream)))
    counts = Counter(form.kind for form in forms if form is not None)
    return Made(maker, (start, end), dict(sorted(counts.items())))
