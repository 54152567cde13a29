# SPDX-License-Identifier: MIT
"""Sample images of the tables whose entries are structures of functions, data and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.tables.scene import (
    DATA_VA,
    RODATA_VA,
    TABLE_VA,
    TEXT_VA,
    TableDamage,
    TableSample,
    TextScene,
    relatives,
    word,
)
from vmipatch.tables.table import TableName

CODE, CODE2, TEXT_NAME = TEXT_VA + 0x40, TEXT_VA + 0x80, RODATA_VA
Row = Sequence[int]


def _records(
    name: TableName,
    start: str,
    stop: str,
    rows: list[Row],
    address_columns: Sequence[int],
    damages: list[tuple[str, int, int]],
) -> Callable[[], TableSample]:
    """Structures of words; `damages` are a reason, the number of a word, and what it becomes."""

    def sample() -> TableSample:
        scene = TextScene()
        scene.builder.section("__strings", RODATA_VA, b"name\0")
        words = [value for row in rows for value in row]
        scene.table(".init.data", b"".join(map(word, words)), start, stop)
        targets = {
            TABLE_VA + 4 * (len(row) * i + k): row[k]
            for i, row in enumerate(rows)
            for k in address_columns
            if row[k] >= TEXT_VA
        }
        wrong = [TableDamage(why, TABLE_VA + 4 * at, word(value)) for why, at, value in damages]
        return TableSample(name, scene.image(), targets, damages=wrong)

    return sample


def tracepoints() -> TableSample:
    scene = TextScene()
    scene.table(
        ".init.data",
        relatives(DATA_VA, DATA_VA + 8),
        "__start___tracepoints_ptrs",
        "__stop___tracepoints_ptrs",
    )
    return TableSample(
        TableName.TRACEPOINTS, scene.image(), {TABLE_VA: DATA_VA, TABLE_VA + 4: DATA_VA + 8}
    )


_PARAMS = (TableName.MODULE_PARAMS, "__start___param", "__stop___param")
_MARKERS = (TableName.MARKERS, "__start___markers", "__stop___markers")
_TRACEPOINT_ARRAY = (
    TableName.TRACEPOINT_ARRAY,
    "__start___tracepoints",
    "__stop___tracepoints",
)

SAMPLES: tuple[Callable[[], TableSample], ...] = (
    _records(
        TableName.SETUP_PARAMS,
        "__setup_start",
        "__setup_end",
        [(TEXT_NAME, CODE, 0), (TEXT_NAME + 1, CODE2, 1)],
        (0, 1),
        [
            ("entry 1 has its function", 4, DATA_VA),
            ("entry 0 has code at its text", 0, CODE),
            ("entry 0 has no early", 2, 2),
        ],
    ),
    _records(
        *_PARAMS,
        [(TEXT_NAME, 0, DATA_VA, 0o644, DATA_VA + 8), (TEXT_NAME, DATA_VA, DATA_VA, 0, 1)],
        (0, 1, 2, 4),
        [("entry 0 has no permissions", 3, 0xFFFF), ("entry 1 has its module", 6, 4)],
    ),
    _records(
        *_PARAMS,
        [(TEXT_NAME, DATA_VA, 0x10000 | 0o444, DATA_VA + 8), (TEXT_NAME, DATA_VA, 0, 5)],
        (0, 1, 3),
        [("entry 1 has code at its operations", 5, CODE)],
    ),
    _records(
        *_PARAMS,
        [(TEXT_NAME, 0o600, CODE, CODE2, DATA_VA), (TEXT_NAME, 0x20000, CODE, 0, CODE)],
        (0, 2, 3, 4),
        [("entry 1 has its get", 8, DATA_VA)],
    ),
    _records(
        TableName.IOMMU,
        "__iommu_table",
        "__iommu_table_end",
        [(CODE, 0, CODE2, 0, 1), (CODE2, CODE, 0, 0, 0)],
        (0, 1, 2, 3),
        [("entry 0 has its detect", 0, 0), ("entry 1 has no flags", 9, 4)],
    ),
    _records(
        TableName.CPU_DEVICES,
        "__x86_cpu_dev_start",
        "__x86_cpu_dev_end",
        [(DATA_VA,), (DATA_VA + 8,)],
        (0,),
        [("entry 1 has its device", 1, 8), ("entry 0 has code", 0, CODE)],
    ),
    _records(
        TableName.TRACEPOINTS,
        "__start___tracepoints_ptrs",
        "__stop___tracepoints_ptrs",
        [(DATA_VA,), (DATA_VA + 8,)],
        (0,),
        [("entry 1 has its data", 1, 8)],
    ),
    _records(
        *_TRACEPOINT_ARRAY,
        [(TEXT_NAME, 0, CODE, CODE2, 0, 0, 0, 0), (TEXT_NAME, 0, 0, 0, 0, 0, 0, 0)],
        (0, 2, 3),
        [("entry 0 has something in its probes", 4, DATA_VA), ("entry 1 has its name", 8, 0)],
    ),
    _records(
        *_TRACEPOINT_ARRAY,
        [(TEXT_NAME, 0, 0, 0), (TEXT_NAME, 0, 0, 0), (TEXT_NAME, 1, 0, 0)],
        (0,),
        [("entry 1 has no state", 5, 7)],
    ),
    _records(
        *_MARKERS,
        [(TEXT_NAME, TEXT_NAME, 0, CODE, 0, 0), (TEXT_NAME, TEXT_NAME, 0, CODE, 0, 0)],
        (0, 1, 3),
        [("entry 1 has its call", 9, DATA_VA)],
    ),
    _records(
        *_MARKERS,
        [
            (TEXT_NAME, TEXT_NAME, 0, CODE, CODE2, 0, 0, 0),
            (TEXT_NAME, TEXT_NAME, 0, CODE, CODE2, 0, 0, 0),
            (TEXT_NAME, TEXT_NAME, 0, CODE, CODE2, 0, 0, 0),
        ],
        (0, 1, 3, 4),
        [("entry 1 has its probe", 12, DATA_VA)],
    ),
    _records(
        *_MARKERS,
        [
            (TEXT_NAME, TEXT_NAME, 0, CODE, CODE2, 0, 0, DATA_VA, CODE, 0),
            (TEXT_NAME, TEXT_NAME, 0, CODE, CODE2, 0, 0, 0, 0, 0),
        ],
        (0, 1, 3, 4, 7, 8),
        [("entry 0 has its callback", 8, DATA_VA)],
    ),
    _records(
        TableName.FTRACE_EVENTS,
        "__start_ftrace_events",
        "__stop_ftrace_events",
        [
            (0, 0, TEXT_NAME, TEXT_NAME, 0, DATA_VA, 0, CODE, CODE2, i, CODE, CODE, *[0] * 10)
            for i in range(3)
        ],
        (2, 3, 5, 7, 8, 10, 11),
        [],
    ),
)
