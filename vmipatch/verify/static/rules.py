# SPDX-License-Identifier: MIT
"""What does the static proof demand, rule by rule?

The one table of rules: code, tests, reports and documentation name a rule by its number.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold of an output."""

    number: str
    title: str
    demand: str
    """What must hold and why, one paragraph."""
    example: str
    """A message, as it might be printed."""
    remedy: str
    """What somebody who meets it can do."""


_REWRITE_AGAIN = "Rewrite the original again; if it comes back, it is a bug of the rewriter."
_REPORT = "This is a bug of the rewriter: report it with both files."

INSTRUCTION_CHANGED = Rule(
    "VP001",
    "every instruction is the image of one instruction",
    "Between two symbols, the output holds the original's instructions in their order, byte for "
    "byte, but for displacements of branches, relocated words, short branches that became near, "
    "and the padding of sites. Nothing is lost, added or altered.",
    "`31 c0` became `31 c1`",
    _REWRITE_AGAIN,
)
CHUNK_LOST = Rule(
    "VP002",
    "every stretch of code has one place",
    "A stretch of code is what lies between two symbols. Each has a place in an executable section "
    "of the output, no two share one, and where control runs from one stretch into the next, the "
    "next still follows.",
    "the code behind memcpy no longer follows it",
    _REPORT,
)
PADDING_CHANGED = Rule(
    "VP003",
    "padding is where padding was",
    "Filler changes its length only in front of a symbol or at the end of a section, and only "
    "where nothing leads into it. Filler that control can run through consists of nops, and an "
    "int3 directly behind ret or jmp, a barrier against speculation, stays. Bytes that are no "
    "instructions, with which a linker filled the gap between two functions, stay as they are.",
    "the int3 behind a ret is gone",
    _REPORT,
)
BYTE_UNACCOUNTED = Rule(
    "VP004",
    "every executable byte is accounted for",
    "Each byte of each executable section of the output is an instruction with an original, a "
    "site's padding, filler, or lies in a section that the rewriter added. What the decoder does "
    "not know, or what branches with 16-bit displacements, cannot be followed.",
    "byte 0f is not an instruction",
    "If the original has the same byte, the second decoder lacks an instruction: report it.",
)
BRANCH_LEADS_ELSEWHERE = Rule(
    "VP005",
    "every branch leads to the image of where it led",
    "The target of each direct call, jump, jcc and loop in the output is the address map's image "
    "of the original branch's target. The target may be a page offset away from an instruction, as "
    "code runs where the kernel is loaded and jumps to where it is linked: then it still is.",
    "leads to 0xc1001235, its image is at 0xc1001234",
    _REWRITE_AGAIN,
)
TARGET_WITHOUT_IMAGE = Rule(
    "VP006",
    "every target has an image",
    "What a branch, relocation or table word of the original leads to must be the beginning of an "
    "instruction that the output has, the end of a section, or data. A label on an operand of four "
    "bytes, at its relocation or in a near branch, keeps its distance to the instruction's end.",
    "led to 0xc1000003, the inside of an instruction",
    "The original holds a reference that nobody can classify; leave it out of the rewrite.",
)
REDIRECTED = Rule(
    "VP007",
    "only the way into start_kernel is another",
    "Branches to start_kernel lead to the runtime, as the manifest says, and the runtime jumps on "
    "to start_kernel. Nothing else is led away from its image. A kernel with a start_kernel has a "
    "runtime.",
    "memcpy is led elsewhere, only start_kernel may be",
    _REPORT,
)
RELOCATION_LEADS_ELSEWHERE = Rule(
    "VP010",
    "every relocated word leads to the image of where it led",
    "A word with a relocation holds the image of what it held. An addend inside its symbol moves "
    "with the instruction it names, one outside keeps its distance to the symbol; physical "
    "addresses are the images of the linked ones, less the offset between both.",
    "holds 0xc1000100, should hold 0xc1000110 (irq_entries_start - 0x100)",
    _REWRITE_AGAIN,
)
RELOCATION_ENTRY = Rule(
    "VP011",
    "every relocation entry follows its word",
    "The .rel sections of the output hold an entry of the same kind and symbol for each of the "
    "original's, at the image of its place, and no other.",
    "there is no R_386_32 entry for the word at 0xc1000010",
    _REPORT,
)
ANNOTATION_RELOCATION = Rule(
    "VP012",
    "records hold linked addresses",
    "Records and translations have no relocations. The runtime adds to their addresses what the "
    "boot loader moved the kernel by; with a relocation it would be added twice. In a module each "
    "of their addresses has one relocation, by a symbol of the section that it lies in.",
    ".rel.vmi.annotation has entries",
    _REPORT,
)
ADDED_WORD = Rule(
    "VP013",
    "added code holds no address of its own making",
    "A thunk addresses memory as its site did: each relocated word of the added code has symbol "
    "and value of a word of the kernel, which has been proven. It has one entry, no more, and each "
    "word of a thunk whose site has a relocation there has one too.",
    "holds 0xc1200000, as no word of the kernel does",
    _REPORT,
)
TABLE_WORD = Rule(
    "VP020",
    "every word of every kernel table leads to the image of where it led",
    "Exception table, bug table, alternatives, locks, jump labels, kallsyms and the others are "
    "read from the original, and each of their words is computed anew and compared: some of them "
    "have no relocation, or a wrong one. Bytes that are no address stay with their entry.",
    "__ex_table holds 0xc1000020, should hold 0xc1000024",
    _REWRITE_AGAIN,
)
TABLE_ORDER = Rule(
    "VP021",
    "what the kernel searches is sorted",
    "Tables that the kernel searches by address are in ascending order.",
    "__mcount_loc: this entry lies below the one before it",
    _REPORT,
)
PATCHED_PLACE = Rule(
    "VP022",
    "code that the kernel rewrites itself keeps its shape",
    "The originals and replacements of alternatives, paravirt sites, static calls and arrays of "
    "stubs keep lengths and distances: the kernel overwrites, copies or indexes them by length.",
    "an alternative's original is 7 bytes long and was 5",
    _REPORT,
)
CODE_PAGE = Rule(
    "VP023",
    "a page of code that is treated as a whole stays whole",
    "The 16-bit code that ACPI's S3 copies to low memory (in .text up to 2.6.24) and the page that "
    "Xen writes its hypercalls over keep their bytes, in order and without a gap, and begin with a "
    "page if they did. Distances in the one are computed by the assembler, the other is named to "
    "Xen by its physical page. The first is known by its symbols and by switching to protected "
    "mode in 16-bit code, the second by holding nothing yet.",
    "the page of code at 0xc1002000 is at 0xc1002008, in two pages",
    _REPORT,
)
EMULATED = Rule(
    "VP024",
    "what Xen emulates stands right after its prefix",
    "A ud2 and the letters xen ask Xen to emulate the cpuid that follows. The bytes of both are "
    "the original's, nothing stands between them, and no record names the cpuid: Xen would not "
    "know a padded one, nor a call.",
    "the prefix of Xen at 0xc1000013 is not in front of its cpuid",
    _REPORT,
)
COMPUTED_ENTRY = Rule(
    "VP025",
    "functions that may be entered by computed addresses keep their distances",
    "Three or more functions at equal distances of 4, 8, 16 or 32 bytes, each aligned to that, may "
    "be entered at addresses that the kernel computes from the first, as KVM's emulator of 4.17 to "
    "6.1 does, if the first has a second name or one function holds them. Each keeps its distance "
    "to the first, or to the function around it, and the alignment it has, up to 64.",
    "0xc1000030 is 3 bytes after the first entry, 0xc1000028, and was 8",
    _REPORT,
)
SYMBOL_VALUE = Rule(
    "VP030",
    "every symbol has the address of what it names",
    "Values of symbols are images. The end of .text may stay where it was, in front of the "
    "sections that took the room, but not change its page. An object that was aligned to its own "
    "size, as stacks are, still is.",
    "do_exit is at 0xc1000100, should be at 0xc1000104",
    _REWRITE_AGAIN,
)
SYMBOL_SIZE = Rule(
    "VP031",
    "every symbol has the size of what it names",
    "A function's size reaches to the image of its end; that of data does not change.",
    "do_exit has 120 bytes, should have 124",
    _REWRITE_AGAIN,
)
SYMBOL_IDENTITY = Rule(
    "VP032",
    "symbols keep number, name, kind and section",
    "Relocations name symbols by number, so that the original's symbols keep theirs, with name, "
    "binding, visibility and section. Only a function that moved changes its section.",
    "symbol 17 was memcpy and is memset",
    _REPORT,
)
DATA_CHANGED = Rule(
    "VP040",
    "data stays",
    "Bytes of data are those of the original, but for relocated words and tables.",
    "byte 0x00 became 0x01",
    _REWRITE_AGAIN,
)
STALE_IDENTITY = Rule(
    "VP042",
    "a new file has a new identity",
    "The GNU build-id of the output is not that of the original: debuggers and profilers would "
    "take one for the other.",
    "the build-id is the original's",
    _REPORT,
)
UNLOADED_CHANGED = Rule(
    "VP041",
    "sections that are not loaded stay",
    "Comments, debug information and the like are those of the original.",
    ".comment differs",
    _REPORT,
)
SECTION_HEADER = Rule(
    "VP050",
    "sections keep number, name and place",
    "Each section of the original has its number, name, type, flags and alignment; those behind "
    ".text are where they were or all further up by the shift the manifest states. Sections do not "
    "overlap.",
    ".data is at 0xc1300000, should be at 0xc1301000",
    _REPORT,
)
SEGMENT_HEADER = Rule(
    "VP051",
    "the loader puts every section where it is linked",
    "ELF header and segments are those of the original but for the shift, and every section that "
    "occupies memory lies in a segment whose file bytes are the section's. A new segment has the "
    "kernel's offset between linked and physical addresses, holds records and nothing else, and "
    "shares no byte of memory with another.",
    "segment 0 ends before .rodata does",
    _REPORT,
)
NEW_SECTION = Rule(
    "VP052",
    "new code lies in the room of .text, records behind the kernel",
    "New code lies behind .text's end and reaches to the end of its last page, or to a section "
    "that begins there (and the shift): what lies elsewhere is made non-executable, freed or never "
    "reserved. Records are read once, before the first allocation: they lie in a read-only segment "
    "of their own behind everything that the kernel reserves. What the rewriter tells about the "
    "file (.vmi.manifest, .vmi.restore) may hold anything, so it is never loaded.",
    ".vmi.text ends at 0xc1201010, behind 0xc1201000",
    _REPORT,
)
MANIFEST = Rule(
    "VP053",
    "the manifest can be read",
    "The output has a section .vmi.manifest: JSON with version, mode, shift and the list of what "
    "was left native.",
    "there is no .vmi.manifest",
    "Give the output of `vmipatch rewrite`, not another file.",
)
OTHER_INPUT = Rule(
    "VP054",
    "the original is the file that was rewritten",
    "The manifest holds the SHA-256 of the kernel that the output was made from. It is that of the "
    "original that the output is compared with: a proof against another file, however alike, says "
    "nothing about where this output comes from.",
    "made from 3a1f..., the original has 77c0...",
    "Give the very file that was rewritten; of a bzImage with a debug twin, the twin.",
)
RECORD_BODY = Rule(
    "VP060",
    "every record names a sensitive instruction",
    "The native body of a record holds the image of exactly one sensitive instruction with a VMI "
    "call, or of one fused group, whole.",
    "the body holds `89 c3`, which is not sensitive",
    _REPORT,
)
RECORD_LENGTH = Rule(
    "VP061",
    "a native body has room for a call and exactly its padding",
    "A body is at least as long as a near call and consists of the original bytes and as many "
    "bytes of padding as the record says: at most 4 redundant prefixes before an instruction that "
    "ignores them, or 32-bit nops, in front where an interrupt shadow must not end.",
    "the padding is 3 bytes long, the record says 4",
    _REPORT,
)
RECORD_CALL = Rule(
    "VP062",
    "a record names the VMI call of its instruction",
    "The call number is the one that the table of sensitive forms gives.",
    "calls STI for `fa` (CLI)",
    _REPORT,
)
RECORD_TRANSLATION = Rule(
    "VP063",
    "a translation is well formed, fits and ends in the record's call",
    "A translation lies in .vmi.translation, is not longer than the native body, and has a near "
    "call to aim where the record says; or it is final: a near call or jump, from where it stands, "
    "to a thunk that holds the record's VMI call.",
    "no near call at offset 1",
    _REPORT,
)
RECORD_OVERLAP = Rule(
    "VP064",
    "no two records share bytes",
    "Each byte of code belongs to one native body at most.",
    "shares bytes with record 5",
    _REPORT,
)
RECORD_SECTION = Rule(
    "VP065",
    "records of code that is freed stand apart",
    "Records of sites in .init.text are in .vmi.annotation.init, all others in .vmi.annotation.",
    "names .text from the init records",
    _REPORT,
)
UNRECORDED = Rule(
    "VP066",
    "what was widened has a record",
    "An instruction with redundant prefixes that its original did not have is the body of a "
    "record.",
    "widened by 4 prefixes without a record",
    _REPORT,
)
INSIDE_BODY = Rule(
    "VP067",
    "nothing leads into a body",
    "No branch, relocation or table word leads to an address inside a native body: a translation "
    "has other instructions there.",
    "leads into the body at 0xc1000100",
    _REPORT,
)
NATIVE_UNLISTED = Rule(
    "VP068",
    "what stays silently wrong is listed",
    "An instruction that behaves differently at CPL 1 without a fault, and has no record, is in "
    "the manifest's list with a reason. One that is missing there was overlooked.",
    "`9c` (pushf) has neither record nor reason",
    "The scan missed it: report it with the original.",
)

THUNK_CALL = Rule(
    "VP069",
    "the table of calls in thunks names calls",
    "Each entry is the address of a near call in the added code that is not aimed yet, and the "
    "number of a VMI call; or of the instruction that merges real and virtual flags.",
    "no near call to aim is at 0xc11aa010",
    _REPORT,
)
FALLBACK_ENTRY = Rule(
    "VP070",
    "the table of native instructions names them",
    "The runtime puts a hlt over each instruction of the table, and the hypervisor looks up what "
    "stood there: each is an unprivileged sensitive instruction without a record, with its first "
    "byte. All of them are in the table but those of replacements, which run where they are copied "
    "to.",
    "9d stands there, the table says 9c",
    _REPORT,
)
RUNTIME = Rule(
    "VP071",
    "the runtime is the known one",
    "From the address that start_kernel's callers are led to, up to the end of the added code, "
    "stand the runtime as this version assembles it for the output's sections, with the sums of "
    "records and sites, and int3. It knows the bounds of the entry code, whose sites it leaves "
    "native at CPL 0: with page-table isolation neither thunks nor ROM are mapped there.",
    "90 instead of 60; 1 bytes differ",
    "Rewrite with the version that verifies; if it comes back, somebody changed the file.",
)
THUNK = Rule(
    "VP072",
    "a translation does what its instruction does",
    "What a site's call of the ROM or thunk leaves in registers, flags, stack and memory, and with "
    "which arguments it calls the ROM, is computed symbolically and compared with what the "
    "instruction and its operands ask for. Every byte of every thunk belongs to such a way.",
    "the thunk at 0xc11aa010 is not for `0f 20 c2`: edx differs behind it",
    _REPORT,
)
NEW_SYMBOL = Rule(
    "VP073",
    "new symbols name the bounds of new sections",
    "For each section of the rewriter there is a symbol at its start and one at its end, and one "
    "where the runtime begins. There are no others.",
    "__vmi_annotation_end is at 0xc1419010, should be at 0xc1419000",
    _REPORT,
)
WINDOW = Rule(
    "VP074",
    "a window is entered at its first byte alone",
    "Where a jump to a trampoline replaces instructions, no branch, word, table or symbol leads to "
    "one of them but the first, none of them holds a relocated word, and the kernel neither looks "
    "one of them up nor patches it. None is entry code: it may run on the page tables of user "
    "space, which do not map the trampoline.",
    "something leads to 0xc1001236, inside of it",
    _REPORT,
)
PINNED = Rule(
    "VP075",
    "what an unknown reference may lead to stays",
    "In a kernel whose relocations had to be recovered, an aligned word of data that would be the "
    "distance to an instruction, and a word of the relocation list that need not be a pointer, may "
    "be references which nobody follows. What they lead to, and around the latter all code, is "
    "where it was.",
    "0xc1001234 moved to 0xc1001230",
    _REPORT,
)

BOUNDARY_UNPROVEN = Rule(
    "VP080",
    "control flow proves where instructions begin",
    "Each byte of code of the original is reached by control flow: from a symbol, a relocated "
    "word, an entry of a kernel table or a branch of proven code. Else it is padding, or nothing "
    "leads to it: then it is never executed, if the file has relocations, and unknown otherwise. "
    "Nothing leads into the middle of an instruction. A linear sweep is never evidence.",
    "`89 c3`: something leads into the middle of it",
    "The original holds data in its code, or a table that vmipatch does not know: report it.",
)
DECODING_UNACCOUNTED = Rule(
    "VP081",
    "every sensitive decoding is in one bucket",
    "Of all bytes of code at which a sensitive instruction could be decoded, each is rewritten "
    "(it has a record), left native (the manifest lists it), no beginning of an instruction, or "
    "never executed. One that is none of them was overlooked: at best it traps.",
    "`fa` is sensitive and has neither record nor reason",
    "The scan missed it: report it with the original.",
)
DECODERS_DISAGREE = Rule(
    "VP082",
    "both decoders see the same instructions",
    "Two decoders of different origin agree on where each instruction of both files begins, how "
    "control leaves it, whether it is filler, and whether it could be sensitive. What one of them "
    "gets wrong is not proven by the other.",
    "the first decoder sees an instruction begin here, the second none",
    "One decoder has a defect: report it with the bytes.",
)

EARLY_ENTRY = Rule(
    "VP085",
    "what answers interrupts does not run before paging",
    "No instruction that an entry of the IDT reaches, by branches, calls and from one to the next, "
    "is left native because it would run before paging is on. Entries are what the kernel's arrays "
    "of IDT data, its arrays of stubs and its handlers' symbols name.",
    "`16` is said to run before paging, and an interrupt comes to it",
    "A word of the original is taken for the physical address of an entry: report it.",
)

RULES: tuple[Rule, ...] = tuple(
    sorted((v for v in list(globals().values()) if isinstance(v, Rule)), key=lambda r: r.number)
)
"""Every rule, by number."""
