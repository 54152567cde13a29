# SPDX-License-Identifier: MIT
"""What can be done with a kernel, in a vmlinux or a bzImage?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from vmipatch.choices import DEFAULT_DOMAIN_MEMORY, BootCodeChoice, Mode
from vmipatch.errors import InputNotUnderstood, NotSupported
from vmipatch.files.beside import Beside, linked_with, read_beside
from vmipatch.files.file import File
from vmipatch.files.kind import Kind
from vmipatch.image.bzimage import BzImage, elf_length
from vmipatch.image.elf import ElfImage
from vmipatch.image.flat import flat_image
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.packing import Compression
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.relocations import has_relocations
from vmipatch.image.trim import without_debug
from vmipatch.image.types import Trimmed
from vmipatch.limits import Limit
from vmipatch.steps import step

if TYPE_CHECKING:
    from vmipatch.emu.hooks import Tracer
    from vmipatch.emu.multiboot import BootModule
    from vmipatch.emu.options import MachineOptions
    from vmipatch.emu.terminal import Terminal
    from vmipatch.files.census import Census
    from vmipatch.files.diagnosis import Diagnosis
    from vmipatch.files.domain0 import XenImage
    from vmipatch.files.rewriting import RewrittenKernel
    from vmipatch.files.running import Run
    from vmipatch.files.verification import Verification, VerifyOptions
    from vmipatch.files.wrapping import Wrapped
    from vmipatch.restore import Restored
    from vmipatch.rewrite import RewriteOptions
    from vmipatch.verify.parallel import Watcher


@dataclass(frozen=True)
class KernelFile(File):
    """A vmlinux, a bzImage, or what can only be scanned: a flat binary."""

    data: bytes = field(repr=False, compare=False)
    """The file, unpacked if it was packed as a whole; of a vmlinux maybe without debug sections."""
    packing: Compression = field(default=Compression.NONE, compare=False)
    """How the file as a whole was packed."""
    trimmed: Trimmed | None = field(default=None, compare=False)
    """Set if debug sections were let go of."""
    beside: Beside | None = field(default=None, compare=False)
    """The file that the build left beside a vmlinux without relocations, read with it."""
    base: int | None = field(default=None, compare=False)
    """Where the code of a flat binary is linked; None of all other kinds."""

    @classmethod
    def of(
        cls, name: str, kind: Kind, sha256: str, data: bytes, *, keep_debug: bool = True,
        packing: Compression = Compression.NONE, path: str | None = None,
    ) -> KernelFile:  # fmt: skip
        """The file with `data`, read at `path`.

        Raises MalformedImage if that is not an ELF file or bzImage, and as `read_beside` does.
        """
        file = cls(name, kind, sha256, data, packing)
        if kind is Kind.BZIMAGE:
            return file
        if path is not None:
            file = replace(file, beside=read_beside(file.image, path))
        if keep_debug or ".symtab" not in file.image.section_by_name:
            return file
        image = without_debug(file.image)
        return replace(file, data=image.data, trimmed=image.trimmed)

    @cached_property
    def bzimage(self) -> BzImage | None:
        """The bzImage's contents, None of a vmlinux. Raises as BzImage.parse does."""
        return BzImage.parse(self.data, self.name) if self.kind is Kind.BZIMAGE else None

    @cached_property
    def image(self) -> ElfImage:
        """The ELF kernel in the file, or a flat binary as one.

        Raises as BzImage.parse, ElfImage.parse and flat_image do.
        """
        if self.base is not None:
            return flat_image(self.data, self.base, self.name)
        if self.bzimage is not None:
            return ElfImage.parse(self.bzimage.vmlinux, self.name)
        image = ElfImage.parse(self.data, self.name)
        return image if self.trimmed is None else replace(image, trimmed=self.trimmed)

    @cached_property
    def linked(self) -> LinkedKernel:
        """The kernel with symbols and relocations; what it lacks is recovered from its bytes.

        Raises as `image`, vmipatch.recover.recover and vmipatch.files.beside.linked_with do.
        """
        image, relocs = self.image, None
        if has_relocations(image) or ".vmi.annotation" in image.section_by_name:
            return LinkedKernel.complete(image)
        if ".symtab" in image.section_by_name:
            return linked_with(image, self.beside)
        if self.bzimage is not None:
            relocs = self.bzimage.relocs
        elif len(tail := self.data[elf_length(self.data, self.name) :]):
            relocs = parse_list(tail, self.name)
        from vmipatch.recover import recover

        return recover(image, relocs).kernel

    @property
    def read_with(self) -> tuple[str, ...]:
        """Paths of other files that were read with it."""
        return () if self.beside is None else (self.beside.path,)

    @property
    def elf_sha256(self) -> str:
        """The SHA-256 of the ELF file: the file's own, or that of what the bzImage holds."""
        if self.bzimage is not None:
            return hashlib.sha256(self.bzimage.vmlinux).hexdigest()
        return self.image.file_sha256

    def scan(self) -> Census:
        """Its sensitive instructions, and the account of every byte of code.

        Raises the errors of `image` and of vmipatch.scan.scan.
        """
        from vmipatch.files.census import census_of

        with step("scanning"):
            return census_of(self._as_known)

    @property
    def _as_known(self) -> ElfImage:
        """The kernel with the symbols and relocations that can be recovered of it, if any can."""
        if self.kind is Kind.FLAT or ".symtab" in self.image.section_by_name:
            return self.image
        try:
            return self.linked.image
        except InputNotUnderstood:
            return self.image

    def rewrite(
        self,
        options: RewriteOptions | None = None,
        *,
        debug: KernelFile | None = None,
        boot_code: BootCodeChoice = BootCodeChoice.AUTO,
    ) -> RewrittenKernel:
        """The kernel with VMI call sites, in a file of the same kind.

        `debug` is the vmlinux inside of a bzImage with symbols and relocations, `boot_code` says
        whose boot code starts a bzImage; a vmlinux has neither. Raises NotServed,
        InputNotUnderstood and what vmipatch.rewrite raises.
        """
        from vmipatch.files.rewriting import rewrite_kernel

        self.require_unpacked()
        return rewrite_kernel(self, options, debug, boot_code)

    def doctor(self, *, debug: KernelFile | None = None) -> Diagnosis:
        """Find what `rewrite` will do, refuse and lose: the kernel is rewritten in memory.

        `debug` as for `rewrite`. A refusal is part of what is found.
        """
        from vmipatch.files.diagnosis import diagnose

        return diagnose(self, debug)

    def verify(
        self,
        original: KernelFile | None = None,
        options: VerifyOptions | None = None,
        watcher: Watcher | None = None,
        *,
        debug: KernelFile | None = None,
    ) -> Verification:
        """Whether this rewritten kernel still is `original`; without one it is only booted.

        Of two bzImages all of the file is proven, and `debug` is the vmlinux with symbols and
        relocations that the original was rewritten with, if it was. `watcher` is told how the
        steps go on. Raises NotServed, InputNotUnderstood and what vmipatch.verify raises.
        """
        from vmipatch.files.verification import verify_kernel

        self._require_headers()
        return verify_kernel(self, original, options, watcher, debug)

    def restore(self) -> Restored:
        """The file that this one was made from.

        Raises InputNotUnderstood if it is not an output of `rewrite`, or was changed since.
        """
        from vmipatch.restore import restore, restore_bzimage

        self.require_unpacked()
        with step("restoring"):
            if self.kind is Kind.BZIMAGE:
                return restore_bzimage(self.data, self.name)
            return restore(self.image)

    def run(
        self,
        mode: Mode,
        *,
        initrd: bytes = b"",
        append: str = "console=ttyS0",
        options: MachineOptions | None = None,
        rom: bytes | None = None,
        terminal: Terminal | None = None,
        trace: Tracer | None = None,
        modules: tuple[BootModule, ...] = (),
    ) -> Run:
        """Boot it on the emulated PC until it ends, without a user unless `terminal` is one.

        `append` is the kernel's command line, `rom` the ROM of the modes that have one (our own if
        not given). A kernel with a multiboot header is loaded as that says, with `modules`. Raises
        InputNotUnderstood if it does not fit the machine, EnvironmentProblem if this host cannot
        emulate, NotServed for modules of a kernel that is not multiboot.
        """
        from vmipatch.files.running import run_kernel

        self._require_headers()
        return run_kernel(self, mode, initrd, append, options, rom, terminal, trace, modules)

    def wrap(self, *, kaslr: bool = True) -> Wrapped:
        """A bzImage with vmipatch's own boot code around the kernel.

        With `kaslr` the boot code chooses where it runs, if it has relocations. Raises as `image`
        and vmipatch.image.wrap.wrap do.
        """
        from vmipatch.files.wrapping import wrap_kernel

        self._require_headers()
        return wrap_kernel(self.image, kaslr=kaslr)

    def xen_image(
        self, *, initrd: bytes = b"", append: str = "", memory: int = DEFAULT_DOMAIN_MEMORY
    ) -> XenImage:
        """An image that Xen starts as domain 0: this kernel, which `rewrite` made, and a VMI ROM.

        `append` is put in front of what Xen is given for domain 0's command line, `memory` is one
        of DOMAIN_MEMORY (MiB). Raises NotSupported for a kernel that Xen cannot run,
        InputNotUnderstood if it does not fit, EnvironmentProblem in a checkout without a compiler.
        """
        from vmipatch.files.domain0 import xen_image

        self.require_unpacked()
        return xen_image(self, initrd=initrd, append=append, memory=memory)

    def _require_headers(self) -> None:
        """Raise NotServed for a flat binary."""
        if self.kind is Kind.FLAT:
            self.refuse("can only be scanned", "give the ELF file that it was made from")

    def require_unpacked(self) -> None:
        """Raise NotSupported if the file as a whole is packed, NotServed if it is flat."""
        self._require_headers()
        if self.packing is not Compression.NONE:
            raise NotSupported(
                Limit.PACKED_WHOLE,
                f"the file is packed by {self.packing.label}, and the output would not be",
                file=self.name,
            )
