# SPDX-License-Identifier: MIT
"""Which public classes have a name that another one has, with another meaning?

    python -m tools.homonyms

Looks at the classes of the package and at those that tests, tools, examples and benchmarks share
among their modules. A class of a module that nothing imports, such as a file of tests, is read in
that file alone, and may be called as anything there. Exit code 1 if there is such a name.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PARTS: Final = ("vmipatch", "tests", "tools", "examples", "benchmarks")
PROOF: Final = "the same thing, which the proof has of its own: it imports nothing of the rewriter"
SMALL: Final = "the same thing in the two makers of small files, of a kernel and of a module"
ALLOWED: Final[Mapping[str, tuple[int, str]]] = {
    "BootCode": (2, PROOF),
    "Change": (2, PROOF),
    "Distance": (2, SMALL),
    "Hook": (2, PROOF),
    "Manifest": (2, PROOF),
    "NativeSite": (2, PROOF),
    "Room": (2, PROOF),
    "Short": (2, SMALL),
    "Window": (2, PROOF),
    "Word": (2, SMALL),
    "XenBoot": (2, "the results of one boot on Xen, in a test of Xen and in verify"),
    "Zones": (2, PROOF),
}
"""Names of several classes that mean the same: of how many, and why there are so many."""


def classes_of(tree: ast.Module) -> Iterator[str]:
    """Names of the public classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of each `from module import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name) for name in node.names)


def homonyms(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Modules by name of a class, for names that more than one has; `texts` by dotted name."""
    trees = {module: ast.parse(text) for module, text in texts.items()}
    imported = {pair for tree in trees.values() for pair in imports_of(tree)}
    found = defaultdict(list)
    for module, tree in sorted(trees.items()):
        for name in classes_of(tree):
            if module.split(".")[0] == PARTS[0] or (module, name) in imported:
                found[name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def sources(parts: Iterable[str] = PARTS) -> dict[str, str]:
    """The modules of the tree by dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for part in parts
        for path in sorted((ROOT / part).rglob("*.py"))
    }


def not_allowed(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that no reason explains, or that more classes have than it does."""
    return {
        name: modules
        for name, modules in homonyms(texts).items()
        if len(modules) > ALLOWED.get(name, (1, ""))[0]
    }


def main() -> int:
    """Print each name that is not allowed; 1 if there is one."""
    found = not_allowed(sources())
    for name, modules in sorted(found.items()):
        print(f"{name}: {', '.join(modules)}")
    print(f"homonyms: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
