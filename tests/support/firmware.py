# SPDX-License-Identifier: MIT
"""Does a kernel start the way an installed one does: by GRUB from a disk, by EFI firmware?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support import qemu

GRUB_MODULES = Path("/usr/lib/grub/i386-pc")
OVMF = Path("/usr/share/OVMF")
OVMF_CODE, OVMF_VARS = OVMF / "OVMF32_CODE_4M.secboot.fd", OVMF / "OVMF32_VARS_4M.fd"

_MENU = """\
serial --unit=0
terminal_output serial
set timeout=0
menuentry kernel {{
    linux /boot/vmlinuz {append}
    initrd /boot/initrd
}}
"""


def boot_by_grub(
    kernel: Path, initrd: Path, scratch: Path, append: str = "", *, memory_mib: int = 512
) -> qemu.QemuBoot:
    """SeaBIOS, GRUB from a CD-ROM, its `linux` command."""
    root, image = scratch / "cd", scratch / "cd.iso"
    (root / "boot" / "grub").mkdir(parents=True)
    shutil.copy(kernel, root / "boot" / "vmlinuz")
    shutil.copy(initrd, root / "boot" / "initrd")
    menu = _MENU.format(append=f"{qemu.COMMAND_LINE} {append}".strip())
    (root / "boot" / "grub" / "grub.cfg").write_text(menu)
    command = ["grub-mkrescue", "-d", str(GRUB_MODULES), "-o", str(image), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return qemu.start(["-cdrom", str(image), "-boot", "d"], memory_mib=memory_mib, timeout_s=900)


def boot_by_efi(
    kernel: Path, initrd: Path, scratch: Path, append: str = "", *, memory_mib: int = 512
) -> qemu.QemuBoot:
    """OVMF for i386, which starts the file as an EFI application: the kernel's EFI stub.

    This build of OVMF has secure boot compiled in and not enabled; it wants a chipset with SMM.
    """
    variables = scratch / "vars.fd"
    shutil.copy(OVMF_VARS, variables)
    flash = "if=pflash,format=raw"
    machine = ["-machine", "q35,smm=on"]
    machine += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    machine += ["-drive", f"{flash},unit=0,readonly=on,file={OVMF_CODE}"]
    machine += ["-drive", f"{flash},unit=1,file={variables}"]
    return qemu.boot(
        kernel, initrd, append=append, memory_mib=memory_mib, extra=machine, timeout_s=900
    )
