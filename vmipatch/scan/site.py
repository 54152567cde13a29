# SPDX-License-Identifier: MIT
"""What is a site, and which instructions belong together in one?"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmipatch.isa.classify import call_of, classify
from vmipatch.isa.decode import InstructionStream
from vmipatch.isa.forms import Form, FormTreatment
from vmipatch.scan.code import CodeMap
from vmipatch.vmi.calls import VmiCall


class Disposition(enum.Enum):
    """The fate of a site: the buckets of the ledger.

    UNKNOWN is of a census alone: `rewrite` refuses a kernel of whose code that much is unknown, or
    has recovered more of it.
    """

    REWRITTEN = "rewritten"
    NATIVE_TRAPPING = "native-trapping"
    NATIVE_UNPRIVILEGED = "native-unprivileged"
    HARMLESS = "harmless"
    UNKNOWN = "unknown"


class Reason(enum.Enum):
    """Why a site has its disposition."""

    CALL = "a VMI call stands for it"
    CALL_IN_ALTERNATIVE = "a VMI call fits where it stands, until the kernel replaces it"
    TRAMPOLINE = "a VMI call stands for it, behind a jump out of line"
    NO_CALL = "no VMI call exists; it faults at CPL 1 and is emulated"
    NEVER_A_CALL = "loads SS or CS: a call cannot stand here; it faults unless the RPL fits"
    SAME_AT_CPL1 = "behaves the same at CPL 1"
    BY_DESCRIPTOR = "does not see descriptors of DPL 0 at CPL 1; those that are loaded get DPL 1"
    BEFORE_PAGING = "runs before paging is on, where no ROM is mapped"
    ALTERNATIVE = "the kernel replaces it by an alternative at boot"
    PATCHED = "the kernel patches this place at run time"
    REPLACEMENT = "an alternative: the kernel copies it over an original"
    COPIED = "the kernel copies this code elsewhere before it runs"
    FIXED_STRIDE = "lies in an array of code with a fixed stride"
    FIRMWARE = "calls firmware, on the firmware's terms"
    OTHER_SECTION = "lies in a section that is not laid out anew"
    FIXUP = "its fault has to find the kernel's exception table, which names the site"
    HELD_BY_FIXUP = "no room to widen it, and the exception table, which is sorted, names it"
    NO_TRANSLATION = "no thunk exists for this operand or operand size"
    NO_ROOM = "the region has no room for the padding it needs"
    EMULATED = "Xen emulates it after a prefix of its own, as long as nothing stands between"
    LABELLED = "a label names an operand in it, at a distance that the kernel may count on"
    OWN_ADDRESS = "computes addresses of code from its own, at distances that nothing records"
    SHORT_BRANCH = "a branch over it has no near form, and would miss its target if it grew"
    NOT_PROVEN = "nothing proves that an instruction begins here"
    FIXED = "what may refer to this code is not certain, so it stays where it is"


class Fusion(enum.Enum):
    """Why instructions form one site."""

    NONE = "single"
    SHADOW = "sti keeps interrupts off for one more instruction"
    READ_FLAGS = "pushf and pop read the flags into a register"


@dataclass(frozen=True, slots=True)
class Site:
    """One sensitive instruction, or a fused group."""

    va: int
    code: bytes
    """The original bytes of the whole site."""
    section: int
    """Section index."""
    forms: tuple[Form, ...]
    """The sensitive forms in it, in order; the first rules, but for a group's call."""
    fusion: Fusion
    call: VmiCall | None
    disposition: Disposition
    reason: Reason

    @property
    def end_va(self) -> int:
        """First address after the site."""
        return self.va + len(self.code)

    @property
    def kind(self) -> str:
        """The class it is counted under: `cli`, or `sti+hlt` for a group."""
        return "+".join(form.kind for form in self.forms)


@dataclass(frozen=True, slots=True)
class Sighting:
    """Sensitive instructions that form one site, before anybody decides about it."""

    va: int
    code: bytes
    forms: tuple[Form, ...]
    fusion: Fusion
    call: VmiCall | None
    treatment: FormTreatment


_SHADOW_CALLS = {"hlt": VmiCall.HALT, "sysexit": VmiCall.SYSEXIT, "mwait": None}
POP_R32 = range(0x58, 0x60)


def find_sightings(code_map: CodeMap, stream: InstructionStream) -> list[Sighting]:
    """All sensitive instructions of a stream in address order, fused where they must be."""
    found: list[Sighting] = []
    fused_until = 0
    for index in stream.sensitive_candidates.tolist():
        if index < fused_until:
            continue
        form = classify(stream.bytes_at(index))
        if form is None:
            continue
        group = _fuse(code_map, stream, index, form)
        fused_until = index + (1 if group.fusion is Fusion.NONE else 2)
        found.append(group)
    return found


def _fuse(code_map: CodeMap, stream: InstructionStream, index: int, form: Form) -> Sighting:
    va, code = int(stream.starts[index]), stream.bytes_at(index)
    alone = Sighting(va, code, (form,), Fusion.NONE, call_of(form, code), form.treatment)
    if index + 1 == len(stream):
        return alone
    next_code = stream.bytes_at(index + 1)
    is_target = code_map.is_target(va + len(code))
    if form.kind == "sti":
        follower = classify(next_code)
        if follower is not None and follower.kind in _SHADOW_CALLS:
            if is_target:
                # Not one site, as something points to the second; a call would end the shadow.
                return Sighting(va, code, (form,), Fusion.NONE, None, FormTreatment.NATIVE)
            call = _SHADOW_CALLS[follower.kind]
            treatment = FormTreatment.CALL if call is not None else FormTreatment.NATIVE
            forms = (form, follower)
            return Sighting(va, code + next_code, forms, Fusion.SHADOW, call, treatment)
    if form.kind == "pushf" and not is_target and len(next_code) == 1 and next_code[0] in POP_R32:
        forms_ = (form,)
        return Sighting(va, code + next_code, forms_, Fusion.READ_FLAGS, form.call, form.treatment)
    return alone
