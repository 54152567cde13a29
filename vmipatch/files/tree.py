# SPDX-License-Identifier: MIT
"""What can be done with a tree of modules, such as /lib/modules/VERSION?

Work is spread over any `concurrent.futures.Executor`: each file is a task that can be pickled and
that reads and writes by path, so that the executor's workers need the same file system, and nothing
else of this process. The default is a pool of processes on this machine.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NoReturn

from vmipatch.errors import NotServed
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import read_file, sha256_of
from vmipatch.files.kind import Kind
from vmipatch.files.module import ModuleFile
from vmipatch.files.nodes import Node, NodeKind, nodes_of, packed_name
from vmipatch.files.open import open_bytes
from vmipatch.files.tree_copy import Copied, Watch, copy_tree
from vmipatch.image.packed import packing_of

if TYPE_CHECKING:
    from vmipatch.files.tree_census import TreeCensus
    from vmipatch.files.tree_verification import TreeVerification
    from vmipatch.rewrite import RewriteOptions

LOADED_BY = "a kernel loads modules: run that"


@dataclass(frozen=True)
class ModuleTree:
    """A directory with modules in it."""

    name: str
    """Its path, or what else to call it."""
    root: str
    """Its absolute path: what is done with it may be done by other processes."""
    kind: ClassVar[Kind] = Kind.TREE
    """TREE, as with files."""

    @classmethod
    def of(cls, path: str, name: str | None = None) -> ModuleTree:
        """The tree at `path`."""
        return cls(name or path, os.path.abspath(path))

    @property
    def nodes(self) -> list[Node]:
        """Its contents now, by path. Raises EnvironmentProblem."""
        return nodes_of(self.root)

    @property
    def modules(self) -> list[Node]:
        """The modules in it now, by path. Raises EnvironmentProblem."""
        return [node for node in self.nodes if node.kind is NodeKind.MODULE]

    @property
    def files_count(self) -> int:
        """Number of nodes that are not directories now. Raises EnvironmentProblem."""
        return sum(node.kind is not NodeKind.DIRECTORY for node in self.nodes)

    @cached_property
    def sha256(self) -> str:
        """Over the list of its modules by path, a line each: hash, two blanks, path.

        Reads every module. Raises EnvironmentProblem.
        """
        listing = hashlib.sha256()
        for node in self.modules:
            digest = sha256_of(read_file(os.path.join(self.root, node.path)))
            listing.update(f"{digest}  ".encode() + os.fsencode(node.path) + b"\n")
        return listing.hexdigest()

    def scan(
        self,
        *,
        executor: Executor | None = None,
        jobs: int | None = None,
        watch: Watch | None = None,
    ) -> TreeCensus:
        """The sensitive instructions of each module. Raises EnvironmentProblem."""
        from vmipatch.files.tree_census import scan_tree

        return scan_tree(self, executor, jobs, watch)

    def rewrite(
        self,
        target: str | os.PathLike[str],
        options: RewriteOptions | None = None,
        *,
        executor: Executor | None = None,
        jobs: int | None = None,
        watch: Watch | None = None,
    ) -> Copied:
        """Rewrite all modules into the directory `target`, and copy everything else.

        A module that is not understood is left out, and its entry says why. `watch` is told of
        each file. Raises as vmipatch.files.tree_copy.copy_tree does.
        """
        from vmipatch.rewrite import RewriteOptions

        options = options or RewriteOptions()
        return copy_tree(
            self.root, os.fspath(target), _Rewrite(options), f"rewrite {options}",
            executor=executor, jobs=jobs, watch=watch,
        )  # fmt: skip

    def verify(
        self,
        original: ModuleTree,
        *,
        executor: Executor | None = None,
        jobs: int | None = None,
        watch: Watch | None = None,
    ) -> TreeVerification:
        """Prove each module of this tree from the one of `original`.

        Raises EnvironmentProblem, and NotServed if `original` is not a tree.
        """
        from vmipatch.files.tree_verification import verify_tree

        return verify_tree(self, original, executor, jobs, watch)

    def restore(
        self,
        target: str | os.PathLike[str],
        *,
        executor: Executor | None = None,
        jobs: int | None = None,
        watch: Watch | None = None,
    ) -> Copied:
        """Give all modules that were rewritten back into `target`, and copy everything else.

        A module that does not come back is left out, and its entry says why. Raises as
        vmipatch.files.tree_copy.copy_tree does.
        """
        return copy_tree(
            self.root, os.fspath(target), restored, "restore",
            executor=executor, jobs=jobs, watch=watch,
        )  # fmt: skip

    def run(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        raise NotServed("a module tree does not boot", file=self.name, hint=LOADED_BY)

    def doctor(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        hint = "give one of its modules; `rewrite` of a tree lists what is refused"
        raise NotServed("a module tree has no diagnosis of its own", file=self.name, hint=hint)

    def wrap(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        raise NotServed("a module tree does not boot", file=self.name, hint=LOADED_BY)

    def xen_image(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        raise NotServed("a module tree does not boot", file=self.name, hint=LOADED_BY)


def open_module(data: bytes, name: str) -> ModuleFile:
    """A file of a tree that is named as a module. Raises NotServed if it is something else."""
    file = open_bytes(data, name)
    if not isinstance(file, ModuleFile):
        file.refuse("stands where a module should be", "give it another name, or take it out")
    return file


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Rewrites one module of a tree."""

    options: RewriteOptions

    def __call__(self, data: bytes, name: str, path: str) -> tuple[bytes, Entry]:
        done = open_module(data, name).rewrite(self.options)
        return done.data, done.entry(path)


def restored(data: bytes, name: str, path: str) -> tuple[bytes, Entry]:
    """The module that `data` was made from; one that was not rewritten stays as it is."""
    file = open_module(data, name)
    if not file.is_rewritten:
        return data, Entry(path, FileOutcome.UNTOUCHED)
    back = file.restore()
    # It may have been packed since, or unpacked.
    name = path if packing_of(data) is packing_of(back.data) else packed_name(path, back.data)
    return back.data, Entry(name, FileOutcome.RESTORED, gives=back.gives.label)
