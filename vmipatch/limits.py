# SPDX-License-Identifier: MIT
"""What does vmipatch not support? One closed list; docs/guide.md prints it, a test compares.

A file that meets one of these is sound: it is refused, and never called damaged.
"""

from __future__ import annotations

import enum


class Limit(enum.Enum):
    """A kind of file or kernel that is refused: what it is, and what to do."""

    ARCHITECTURE = (
        "a file that is not for i386 (64-bit, big-endian or another processor)",
        "vmipatch works on i386 kernels only",
    )
    ZIMAGE = (
        "a zImage, whose code is loaded below 1 MiB",
        "give the bzImage or the vmlinux of the same build",
    )
    BOOT_PROTOCOL = (
        "a bzImage of a boot protocol before 2.08 (Linux up to 2.6.25), which does not tell where "
        "its kernel lies; `run` takes it",
        "give the vmlinux of the same build",
    )
    NO_PAYLOAD = (
        "a file that boots as a bzImage does and holds no Linux",
        "give the ELF file that it was made from, if there is one",
    )
    PAYLOAD = (
        "a bzImage whose kernel is not an ELF file, so that nothing tells its code from its data",
        "give the vmlinux of the same build",
    )
    COMPRESSION = (
        "a payload that no program packs for Linux on i386",
        "give the vmlinux of the same build",
    )
    PACKED_WHOLE = (
        "a vmlinux or bzImage that is packed as a whole: it is read, and not rewritten",
        "unpack it first",
    )
    AFTER_STREAM = (
        "a packed module whose stream something follows: some loaders read it as a part of the "
        "module, others leave it",
        "pack the module again, as one stream",
    )
    NO_RELOCATIONS = (
        "a kernel without relocations and without a relocation list (CONFIG_RELOCATABLE=n): any "
        "word might be an address",
        "build it with CONFIG_RELOCATABLE=y; give the bzImage, or the vmlinux of the same build",
    )
    RELOCATIONS_TAKEN_OUT = (
        "a vmlinux whose relocations the build has taken out, with nothing beside it that has them",
        "keep vmlinux.unstripped or arch/x86/boot/compressed/vmlinux.relocs beside it, or give its "
        "bzImage with --debug",
    )
    NO_SECTIONS = (
        "a kernel without section headers, which alone tell its code from its data",
        "give a kernel that has them",
    )
    MANY_SECTIONS = (
        "a kernel of more than 512 sections, or a module of more than 16,384",
        "link the sections of functions into one, as the kernel's build does",
    )
    NO_SYMBOLS = (
        "a kernel that comes alone and has no symbols of its own (CONFIG_KALLSYMS=n)",
        "give the vmlinux of the same build",
    )
    KALLSYMS = (
        "a kernel that comes alone and stores its symbols in a way that vmipatch does not know",
        "give the vmlinux of the same build",
    )
    NO_ROOM = (
        "a kernel that comes alone with so little padding between code in doubt that the runtime "
        "has no room",
        "give the vmlinux of the same build: with relocations all code can move",
    )
    CODE_AMONG_DATA = (
        "a sensitive instruction in a function that lies in a section of data",
        "move the function to a section of code",
    )
    DATA_AMONG_CODE = (
        "bytes in a section of code that are not an instruction and that no symbol names as data",
        "name them by a symbol of an object, or move them to a section of data; code that is "
        "copied, or has 16 bits, can be kept as it is: --keep START..END, two symbols around it",
    )
    REFERENCE = (
        "a word or branch into code of which nothing tells what it means",
        "only the source can tell: report this kernel",
    )
    STUCK_BRANCH = (
        "a short branch that cannot grow and whose target cannot stay near, even with all sites "
        "around it left native",
        "report this kernel",
    )
    NOT_ENTERED = (
        "a kernel in which nothing targets start_kernel, so that the runtime would never run",
        "name with --start the function that its entry code calls or jumps to, once, with its own "
        "page tables in use and interrupts off",
    )
    BOOT_HEADER = (
        "a multiboot kernel whose header says itself what is loaded where, or would not be found "
        "after code before it has grown",
        "leave the addresses to the ELF header (bit 16, or the address tag), and put the header "
        "before all code",
    )
    TOO_HIGH = (
        "a kernel that ends so high that no address is left for annotations",
        "link it so that it ends lower: Linux needs the rest for fixed mappings",
    )
    ONE_NAME_TABLE = (
        "a module whose symbols and sections have their names in one table",
        "link it with the linker of the kernel's build",
    )
    WRAP_PLACE = (
        "`wrap` of a kernel that is not linked between 1 MiB and 512 MiB of physical memory",
        "the physical addresses of the program headers decide",
    )
    WRAP_SEGMENTS = (
        "`wrap` of an ELF file with no segment, or with more than the boot code has room for",
        "link the kernel as its own linker script does",
    )
    WRAP_DISTANCE = (
        "`wrap` of a relocatable kernel whose segments differ in their distance from virtual to "
        "physical",
        "wrap it without a relocation list: it then runs where it was linked",
    )
    ANNOTATED = (
        "`rewrite` of a kernel with annotated call sites of VMI API 13, the patches of March 2006: "
        "it patches them itself",
        "`run --paravirt` gives it a ROM of that API",
    )
    XEN_NOT_REWRITTEN = (
        "`xen-image` of a kernel that `rewrite` has not made",
        "rewrite it first",
    )
    XEN_PAE = (
        "`xen-image` of a kernel without PAE: Xen has no other paging for 32-bit guests",
        "build it with CONFIG_X86_PAE=y",
    )
    XEN_START = (
        "`xen-image` of a kernel whose start is not understood: where it goes on with paging, and "
        "what it expects there",
        "give a kernel of Linux with symbols, and report it if it is one",
    )

    @property
    def what(self) -> str:
        """The kind of file."""
        return self.value[0]

    @property
    def remedy(self) -> str:
        """The way out for the user."""
        return self.value[1]
