# SPDX-License-Identifier: MIT
"""vmipatch: VMI for i386 kernel binaries.

    import vmipatch

    kernel = vmipatch.open("vmlinux")
    done = kernel.rewrite()
    verdict = vmipatch.open(done.data, name="vmlinux.vmi").verify(kernel)

`open` tells what a file is; what it gives has `kind`, `sha256` and the jobs `scan`, `rewrite`,
`verify`, `restore` and `run`. Semantic versioning speaks of the names below, their attributes that
do not begin with an underscore, and the JSON schemas; whatever else a module holds may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmipatch.choices import BootCodeChoice as BootCodeChoice
    from vmipatch.choices import Extent as Extent
    from vmipatch.choices import Mode as Mode
    from vmipatch.choices import Padding as Padding
    from vmipatch.emu.options import MachineOptions as MachineOptions
    from vmipatch.errors import EnvironmentProblem as EnvironmentProblem
    from vmipatch.errors import InputNotUnderstood as InputNotUnderstood
    from vmipatch.errors import NotServed as NotServed
    from vmipatch.errors import OutputTaken as OutputTaken
    from vmipatch.errors import VmipatchError as VmipatchError
    from vmipatch.files.census import Census as Census
    from vmipatch.files.diagnosis import Diagnosis as Diagnosis
    from vmipatch.files.entry import Entry as Entry
    from vmipatch.files.entry import FileOutcome as FileOutcome
    from vmipatch.files.kernel import KernelFile as KernelFile
    from vmipatch.files.kind import Kind as Kind
    from vmipatch.files.module import ModuleFile as ModuleFile
    from vmipatch.files.module import RewrittenModuleFile as RewrittenModuleFile
    from vmipatch.files.open import open_any as open
    from vmipatch.files.rewriting import RewrittenKernel as RewrittenKernel
    from vmipatch.files.running import Run as Run
    from vmipatch.files.tree import ModuleTree as ModuleTree
    from vmipatch.files.tree_census import TreeCensus as TreeCensus
    from vmipatch.files.tree_copy import Copied as Copied
    from vmipatch.files.tree_verification import TreeVerification as TreeVerification
    from vmipatch.files.verification import Verification as Verification
    from vmipatch.files.verification import VerifyOptions as VerifyOptions
    from vmipatch.rewrite import RewriteOptions as RewriteOptions

__version__ = "0.2.0"

_HOME = {
    "BootCodeChoice": "vmipatch.choices",
    "Census": "vmipatch.files.census",
    "Copied": "vmipatch.files.tree_copy",
    "Diagnosis": "vmipatch.files.diagnosis",
    "Entry": "vmipatch.files.entry",
    "EnvironmentProblem": "vmipatch.errors",
    "Extent": "vmipatch.choices",
    "FileOutcome": "vmipatch.files.entry",
    "InputNotUnderstood": "vmipatch.errors",
    "KernelFile": "vmipatch.files.kernel",
    "Kind": "vmipatch.files.kind",
    "MachineOptions": "vmipatch.emu.options",
    "Mode": "vmipatch.choices",
    "ModuleFile": "vmipatch.files.module",
    "ModuleTree": "vmipatch.files.tree",
    "NotServed": "vmipatch.errors",
    "OutputTaken": "vmipatch.errors",
    "Padding": "vmipatch.choices",
    "RewriteOptions": "vmipatch.rewrite",
    "RewrittenKernel": "vmipatch.files.rewriting",
    "RewrittenModuleFile": "vmipatch.files.module",
    "Run": "vmipatch.files.running",
    "TreeCensus": "vmipatch.files.tree_census",
    "TreeVerification": "vmipatch.files.tree_verification",
    "Verification": "vmipatch.files.verification",
    "VerifyOptions": "vmipatch.files.verification",
    "VmipatchError": "vmipatch.errors",
}
"""Where each public name is; it is imported when it is asked for."""

__all__ = ["__version__", "open", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "open":
        value = import_module("vmipatch.files.open").open_any
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
