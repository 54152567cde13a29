# SPDX-License-Identifier: MIT
"""Which package may import which: a contract for import-linter that is read as a table.

The built-in contracts list what is forbidden, per pair, and refuse packages that do not exist
yet. This one lists, per package, all it may import; the table itself is in pyproject.toml.
"""

from __future__ import annotations

from dataclasses import dataclass

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

Table = dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One import statement that the table does not allow."""

    importer: str
    imported: str
    reason: str


class ImportTable(Contract):
    """Every import of the package is in the table.

    Options (lists of rows `name: name name ...`, names relative to the root package):
        may_import: a module and all below it may import these. The longest matching row counts;
            a module without a row may import nothing. Its own row's package is always allowed.
        only_in: an external library may be imported by these modules and those below them.
        never_reaches: no chain of imports, however long, leads from a module to these. A module
            that does not exist yet is passed over.
    """

    type_name = "import_table"

    may_import = fields.ListField(subfield=fields.StringField())
    only_in = fields.ListField(subfield=fields.StringField())
    never_reaches = fields.ListField(subfield=fields.StringField(), required=False, default=())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Compare each direct import with the table, then look for forbidden chains."""
        root = str(self.session_options["root_packages"][0])
        allowed = _table(self.may_import)  # type: ignore[arg-type]
        reserved = _table(self.only_in)  # type: ignore[arg-type]
        violations = []
        for importer in sorted(m for m in graph.modules if _is_within(m, root)):
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                if _is_within(imported, root):
                    reason = _inside(_relative(importer, root), _relative(imported, root), allowed)
                else:
                    reason = _outside(_relative(importer, root), imported, reserved)
                if reason:
                    violations.append(Violation(importer, imported, reason))
        for start, goals in _table(self.never_reaches).items():  # type: ignore[arg-type]
            violations += _chains(graph, f"{root}.{start}", sorted(f"{root}.{g}" for g in goals))
        return ContractCheck(kept=not violations, metadata={"violations": violations})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line for each import that is not allowed."""
        for each in check.metadata["violations"]:
            output.print_error(f"{each.importer} -> {each.imported}: {each.reason}", bold=False)


def _inside(importer: str, imported: str, allowed: Table) -> str:
    """Why `importer` may not import a module of its own root package; empty if it may."""
    row = _longest(importer, allowed)
    if row is None:
        return "" if not imported else f"no row for {importer or 'the root package'}"
    if not imported or _is_within(imported, row):
        return ""
    if any(_is_within(imported, name) for name in allowed[row]):
        return ""
    return f"the row of {row} does not name it"


def _outside(importer: str, library: str, reserved: Table) -> str:
    """Why `importer` may not import `library`; empty if it may."""
    homes = reserved.get(library)
    if homes is None or any(_is_within(importer, home) for home in homes):
        return ""
    return f"only {', '.join(sorted(homes))} may import it"


def _chains(graph: ImportGraph, start: str, goals: list[str]) -> list[Violation]:
    """The shortest chains of imports that lead from `start` to one of `goals`."""
    chains = [
        chain
        for goal in goals
        if {start, goal} <= graph.modules
        for chain in sorted(graph.find_shortest_chains(start, goal, as_packages=True))
    ]
    return [Violation(c[0], c[-1], f"by way of {', '.join(c[1:-1])}") for c in chains]


def _table(rows: list[str]) -> Table:
    """Parse `name: name name` rows."""
    split = (row.partition(":") for row in rows)
    return {name.strip(): frozenset(names.split()) for name, _, names in split}


def _longest(module: str, table: Table) -> str | None:
    """The most specific row that `module` falls under."""
    return max((row for row in table if _is_within(module, row)), key=len, default=None)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _relative(module: str, root: str) -> str:
    """`module` without its root package; the root package itself is the empty string."""
    return module.removeprefix(root).removeprefix(".")
