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
    """The demand and the reason for it, one paragraph."""
    example: str
    """A message, as it might be printed."""
    remedy: str
    """Advice to somebody who meets it."""


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
    "of the output, no two share one, they stand in the order in which they stood (the kernel "
    "compares addresses with the bounds of its parts), and where control runs from one stretch "
    "into the next, the next still follows.",
    "the code after memcpy no longer follows it",
    _REPORT,
)
PADDING_CHANGED = Rule(
    "VP003",
    "padding is where padding was",
    "Filler changes its length only in front of a symbol or at the end of a section, and only "
    "where nothing leads into it. Filler that control can run through consists of nops, and an "
    "int3 directly after ret or jmp, a barrier against speculation, stays. Bytes that are no "
    "instructions, with which a linker filled the gap between two functions, stay as they are. "
    "Filler of another length is int3 where it was int3, and otherwise the longest nops that fit. "
    "Filler that is longer takes what follows back to its old place at most, or is longer by less "
    "than an alignment that what follows had.",
    "the int3 after a ret is gone",
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
    "every branch targets the image of its old target",
    "The target of each direct call, jump, jcc and loop in the output is the address map's image "
    "of the original branch's target. The target may be a page offset away from an instruction, as "
    "code runs where the kernel is loaded and jumps to where it is linked: then it still is.",
    "targets 0xc1001235, its image is at 0xc1001234",
    _REWRITE_AGAIN,
)
TARGET_WITHOUT_IMAGE = Rule(
    "VP006",
    "every target has an image",
    "The target of a branch, relocation or table word of the original must be the beginning of an "
    "instruction that the output has, the end of a section, or data. A label on an operand of four "
    "bytes, at its relocation or in a near branch, keeps its distance to the instruction's end.",
    "targeted 0xc1000003, the inside of an instruction",
    "The original holds a reference that cannot be classified; leave it out of the rewrite.",
)
REDIRECTED = Rule(
    "VP007",
    "only the way into start_kernel is another",
    "Branches to start_kernel, or to the function that the manifest names instead, target the "
    "runtime, and the runtime jumps on to it; so do the absolute words of code that hold its "
    "address, and where there is neither, those of data. Nothing else is redirected. A kernel has "
    "a runtime, and something enters it.",
    "memcpy is led elsewhere, only start_kernel may be",
    _REPORT,
)
RELOCATION_LEADS_ELSEWHERE = Rule(
    "VP010",
    "every relocated word points to the image of its old target",
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
    "every word of every kernel table points to the image of its old target",
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
    "code that is treated as a whole stays whole",
    "The 16-bit code that ACPI's S3 copies to low memory (in .text up to 2.6.24) and the page that "
    "Xen writes its hypercalls over keep their bytes, in order and without a gap, and begin with a "
    "page if they did. Distances in the one are computed by the assembler, the other is named to "
    "Xen by its physical page. The first is known by its symbols and by switching to protected "
    "mode in 16-bit code, the second by holding nothing yet. So do objects in a section of code, "
    "and what the manifest names as kept, by two symbols (`rewrite --keep`).",
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
    "Each section of the original has its number, name, type, flags and alignment; those after "
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
    "new code lies in the room of .text, records after the kernel",
    "New code lies after .text's end and reaches to the end of its last page, or to a section "
    "that begins there (and the shift): what lies elsewhere is made non-executable, freed or never "
    "reserved. The shift keeps the alignment of what it moves, and is no longer than the room "
    "asks for. Code and records are no longer than sites of the original can ask for: if they are, "
    "nothing more is asked of the file. Records are read once, before the first allocation: they "
    "lie in a read-only segment of their own after everything that the kernel reserves. What the "
    "rewriter tells about the file (.vmi.manifest, .vmi.restore) may hold anything, so it is never "
    "loaded. Names are those of a closed list, each once, with one type, one alignment and one set "
    "of flags, and sections of relocations for those sections alone that the list gives one.",
    ".vmi.text ends at 0xc1201010, after 0xc1201000",
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
    "ignores them, or 32-bit nops, in front where an interrupt shadow must not end. It is padded "
    "to the length of a call and no further, with the longest nops that fit, and of the kind that "
    "the manifest names. Records are sorted.",
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
    "to a thunk that holds the record's VMI call. Thunks stand in the order of their translations.",
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
    "No branch, relocation or table word targets an address inside a native body: a translation "
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
    "From the address that start_kernel's callers go to, up to the end of the added code, "
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
    "instruction and its operands ask for. Words below ESP are lost, as an interrupt may write "
    "there. Every byte of every thunk belongs to such a way.",
    "the thunk at 0xc11aa010 is not for `0f 20 c2`: edx differs after it",
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
    "Where a jump to a trampoline replaces instructions, no branch, word, table or symbol targets "
    "one of them but the first, none of them holds a relocated word, and the kernel neither looks "
    "one of them up nor patches it. None is entry code: it may run on the page tables of user "
    "space, which do not map the trampoline. A window consists of whole instructions, as both "
    "decoders see them, one of which has a record, and could not be shorter.",
    "something targets 0xc1001236, inside of it",
    _REPORT,
)
PINNED = Rule(
    "VP075",
    "what an unknown reference may point to stays",
    "In a kernel whose relocations had to be recovered, an aligned word of data that would be the "
    "distance to an instruction, and a word of the relocation list that need not be a pointer, may "
    "be references that are not followed. What they point to, and around the latter all code, is "
    "where it was.",
    "0xc1001234 moved to 0xc1001230",
    _REPORT,
)

BOUNDARY_UNPROVEN = Rule(
    "VP080",
    "control flow proves where instructions begin",
    "Each byte of code of the original is reached by control flow: from a symbol, a relocated "
    "word, an entry of a kernel table or a branch of proven code. Else it is padding, or nothing "
    "targets it: then it is never executed, if the file has relocations, and unknown otherwise. "
    "Nothing leads into the middle of an instruction. A linear sweep is never evidence.",
    "`89 c3`: something leads into the middle of it",
    "The original holds data in its code, or a table that vmipatch does not know: report it.",
)
DECODING_UNACCOUNTED = Rule(
    "VP081",
    "every sensitive decoding is in one bucket",
    "Of all bytes of code at which a sensitive instruction could be decoded, each is rewritten "
    "(it has a record), left native (the manifest lists it), no beginning of an instruction, or "
    "never executed. One that is not among them was overlooked: at best it traps.",
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
    "No sensitive instruction that an entry of the IDT reaches, by branches, calls and from one to "
    "the next, lies in what the proof finds to run before paging is on. Entries are what the "
    "kernel's arrays of IDT data, its arrays of stubs and its handlers' symbols name.",
    "`16` would run before paging, and an interrupt comes to it",
    "A word of the original is taken for the physical address of an entry: report it.",
)

ZONE = Rule(
    "VP086",
    "code with terms of its own has no records",
    "What runs before paging is on, what the kernel copies, replaces, patches or indexes by a "
    "stride, what calls firmware on its terms and what Xen emulates keeps its instructions: the "
    "proof computes these ranges from the original. A call may stand in the original of an "
    "alternative if it fits there without padding. Instructions whose fault the exception table "
    "expects, and whose operand decides about it, stay as well. In a routine that the kernel "
    "copies no branch becomes near and no filler has another length: it computes addresses from "
    "its own.",
    "it has a record, and runs before paging is on, where no ROM is mapped",
    _REPORT,
)
REASON = Rule(
    "VP087",
    "each reason to stay native holds",
    "The manifest lists sensitive instructions of the output that have no record, each with a "
    "reason of a closed list. Reasons about the original (a range with terms of its own, no VMI "
    "call, another section, a label inside, an entry of the exception table, no translation, a "
    "place that must not move) are computed anew. That there was no room, or that a short branch "
    "would miss its target, is believed: an instruction that stayed does what it did.",
    "it does not hold that this lies in an array of code with a fixed stride",
    _REPORT,
)
SPLIT_PAIR = Rule(
    "VP088",
    "what belongs together is one site",
    "A sti and the hlt, sysexit or mwait in its shadow are the body of one record, or none of them "
    "has one: between two calls an interrupt could come. Where something points to the second, the "
    "sti stays. A pushf and the pop after it that reads the flags are one site as well, unless "
    "something points to the pop.",
    "`fb` has another record than `f4`, or one of them none",
    _REPORT,
)

ALIGNMENT = Rule(
    "VP089",
    "what was aligned on purpose stays aligned",
    "Sixteen bytes of filler or more in front of a function or label show that it was aligned to "
    "more than functions are: its image is a multiple of the same power of two. So is the image of "
    "a label that begins a page and is not a function.",
    "0xc1002000, a multiple of 0x1000, is at 0xc1002008, which is not one",
    _REPORT,
)

FOLDED = Rule(
    "VP090",
    "code that reads its own address computes the same distances",
    "A call of the next instruction and a pop, or a call of a function that returns its return "
    "address in a register, give code its own address. A constant next to that register, without "
    "a relocation and in the same function, that gives an address of the same section is a "
    "distance that the assembler folded: it is the same in the output. A routine that is copied "
    "is kept whole anyway.",
    "0xc1002040 was +0x36 from 0xc100200a, and is not",
    _REPORT,
)
READERS_DISAGREE = Rule(
    "VP098",
    "two libraries read the same headers",
    "Section and program headers of both files, and the entry, are read by lief as well as by "
    "vmipatch: a defect of one that changes what is compared is not hidden by the other.",
    "lief reads size of section 3 as 4096, not 8192",
    "One reader has a defect: report it with the file's headers.",
)
UNEXPLAINED = Rule(
    "VP100",
    "every byte of the file is explained",
    "The verifier builds the whole file from the original and from decisions, each of which is an "
    "address, a length or a member of a closed list, and the output is that file. It has as many "
    "bytes, and each belongs to one row of the ledger.",
    "the file has 4096 bytes more than it should",
    _REWRITE_AGAIN,
)
FILE_HEADER = Rule(
    "VP101",
    "the headers are computed",
    "ELF header, program headers and section headers are computed from the original's and from the "
    "new layout, every field of them, flags and alignment of added sections included.",
    "offset 0x34: 01 stands where 06 should (program headers)",
    _REWRITE_AGAIN,
)
FILE_NAMES = Rule(
    "VP102",
    "the names are the ones that belong there",
    "The table of the names of sections holds each name once, in the order of the sections. The "
    "names of symbols are the original's table, followed by the labels of what was added.",
    "offset 0x2f1a: 78 stands where 76 should (names of sections)",
    _REWRITE_AGAIN,
)
FILE_SYMBOLS = Rule(
    "VP103",
    "the symbol table is computed",
    "Each entry of the original has its place, with its address moved and its size reaching to "
    "where its end went; the labels of added sections follow in the order of these.",
    "offset 0x2f1a04: 10 stands where 00 should (symbols)",
    _REWRITE_AGAIN,
)
FILE_RELOCATIONS = Rule(
    "VP104",
    "the relocation sections are computed",
    "The entries are the original's in their order, each at the image of its place. Those of "
    "thunks stand in the order of their addresses.",
    "offset 0x2f1a04: 10 stands where 00 should (relocation sections)",
    _REWRITE_AGAIN,
)
FILE_LOADED = Rule(
    "VP105",
    "code and data are computed",
    "Data is the original's bytes with words and tables computed anew. So is code, with "
    "displacements of branches computed anew, and with changes of five forms: redundant prefixes, "
    "nops in front, nops after, a near branch, filler of another length. Nops are those of gas, in "
    "as few instructions as there are; filler that began with int3 is int3.",
    "offset 0x1004: 91 stands where 90 should (code: padding of sites)",
    _REWRITE_AGAIN,
)
FILE_REST = Rule(
    "VP106",
    "what else is in the file is the original's, or zero",
    "Bytes between sections are those of the original in the same place; what was put in for a "
    "shift, and for alignment, is zero. Sections that are not loaded follow in their order, "
    "aligned as their headers say, with the original's bytes; debug sections are empty.",
    "offset 0x5004: 01 stands where 00 should (between sections: zeros)",
    _REWRITE_AGAIN,
)
FILE_IDENTITY = Rule(
    "VP107",
    "the build-id is a hash of the file",
    "The GNU build-id, if the original has one, is the SHA-1 of the file up to the restore note, "
    "with zeros in the id's place and no note yet.",
    "offset 0x5004: 01 stands where 00 should (data: build-id)",
    _REWRITE_AGAIN,
)
FILE_ADDED = Rule(
    "VP108",
    "records and tables are put together anew",
    "Records stand in the order of call, translation, lengths and address; translations in that of "
    "the original's addresses of their first sites; calls in thunks by address; what stays native "
    "by the original's address. Nothing else is in their sections.",
    "offset 0x5004: 01 stands where 00 should (added: records)",
    _REWRITE_AGAIN,
)
FILE_MANIFEST = Rule(
    "VP109",
    "the manifest is written anew",
    "The manifest is what the rewriter writes for the decisions that the output follows: sorted "
    "keys, no blanks, reasons from the known list, nothing else.",
    "offset 0x5004: 01 stands where 00 should (manifest)",
    _REWRITE_AGAIN,
)
PAYLOAD = Rule(
    "VP140",
    "a bzImage holds the proven kernel",
    "What the boot code unpacks is, byte for byte, the proven kernel as objcopy -S leaves it, with "
    ".vmi.manifest, and the list of the words that move with it. The kernel is proven with the "
    "symbols and relocations of the original, at the places that the note for restore proposes and "
    "the proof confirms.",
    "byte 0x2f1034 of the unpacked payload is 01, should be 00",
    _REPORT,
)
PACKING = Rule(
    "VP141",
    "the payload is packed as the original's",
    "Packed again by the recipe in the note for restore, which is one that makes the original's "
    "payload, the unpacked payload gives the same stream. Where this machine's compressor does not "
    "give the original's stream either, the form of a stream is free: it unpacks to what is proven "
    "and ends where the header says, its head has the original's parameters or those that the "
    "recipe writes (check, filters, dictionary), and the verdict says that it was not packed "
    "again.",
    "gzip -n -9 (program) gives another stream",
    "Rewrite the original again; if it comes back, the file was changed.",
)
BOOT_CODE = Rule(
    "VP142",
    "boot code is the original's, its words moved",
    "Setup code, head and tail of a bzImage are the original's. The tail moves as far as payload "
    "and notes need. The second decoder reads the code, and what each word of 32 bits must hold is "
    "computed: a length of the kernel, a way between the parts, the end of the boot code. A word "
    "whose meaning is not known is not guessed.",
    "byte 0x1400a0 of the boot code is 00, should be 31",
    "Rewrite the original again; where the original's boot code is not known, report it.",
)
SETUP_HEADER = Rule(
    "VP143",
    "every field of the headers is explained",
    "Of the setup header, payload_length, syssize, init_size, handover_offset and "
    "kernel_info_offset are computed, of the headers for EFI the lengths, places and checksum; all "
    "else is the original's.",
    "init_size is 0x10, should be 0x158b000",
    _REPORT,
)
FILE_END = Rule(
    "VP144",
    "nothing else is in the file",
    "Between payload and tail stand the notes for restore, then zeros. The last word is the CRC-32 "
    "of the file if the original's is. Nothing follows but signatures.",
    "28 bytes follow the boot code",
    "Cut off what follows, or name a file that nothing was appended to.",
)
WAY_BACK = Rule(
    "VP145",
    "restore gives the original",
    "The note for restore is executed. What comes back has the SHA-256 of the file that was named "
    "as the original, or, of a vmlinux without debug information and of a packed payload that "
    "cannot be packed again, is that part of it. The note is written as vmipatch writes it; of "
    "several that give the same file any will do, as nothing but restore reads it.",
    "the note gives 3a1f..., the original has 77c0...",
    _REPORT,
)
FOREIGN_SIGNATURE = Rule(
    "VP146",
    "a signature signs what is proven",
    "A signature that was put on the output later is whole, stands at its end, and the digest that "
    "it names is that of the file without it. If its signer's RSA key is in it, that signed the "
    "digest; else only who has the key can tell. The certificate names each.",
    "its sha256 is not that of the file",
    "Sign the output again, or take the signature off.",
)
OWN_BOOT_CODE = Rule(
    "VP147",
    "vmipatch's own boot code is the known one",
    "A bzImage whose boot code could not be kept is, byte for byte, what this version assembles "
    "around the proven kernel, with the original's alignment and version string.",
    "byte 0x2801 of the file is 90, should be fc",
    "Rewrite with the version that verifies; if it comes back, the file was changed.",
)

RULES: tuple[Rule, ...] = tuple(
    sorted((v for v in list(globals().values()) if isinstance(v, Rule)), key=lambda r: r.number)
)
"""Every rule, by number."""
