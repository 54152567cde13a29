# SPDX-License-Identifier: MIT
"""What does a kernel run without an initial file system? One of verify's own.

Its only program is /init. `start.S` says what it does and begins it, `files`, `processes`,
`signals`, `time` and `rights` hold its steps, `data.S` names them in their order; `program` makes
an ELF of them, `cpio` an archive.
"""

from vmipatch.verify.workload.program import (
    DONE,
    FAILED,
    PREFIX,
    PROGRAM,
    init_program,
    initramfs,
    source,
)

__all__ = ["DONE", "FAILED", "PREFIX", "PROGRAM", "init_program", "initramfs", "source"]
