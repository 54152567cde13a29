# SPDX-License-Identifier: MIT
""".x86_cpu_dev.init and .iommu_table: which drivers of processors and IOMMUs does the kernel try.

Pointers to `struct cpu_dev` (arch/x86/kernel/cpu/cpu.h of 2.6.32 to 6.1), whose functions only
relocations tell; and `struct iommu_table_entry` (arch/x86/include/asm/iommu_table.h of 2.6.39 to
4.19; gone in 5.19), which the kernel sorts at boot by what depends on what.
"""

from __future__ import annotations

from vmipatch.tables.layout import TableKind
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.record import code, data, number, record
from vmipatch.tables.table import TableName

IOMMU_FLAGS = 4
"""Two bits."""

CPU_DEVICES = TableKind(
    TableName.CPU_DEVICES,
    first_of(between("__x86_cpu_dev_start", "__x86_cpu_dev_end"), section(".x86_cpu_dev.init")),
    (record("u32 device", data("device")),),
)

IOMMU = TableKind(
    TableName.IOMMU,
    first_of(between("__iommu_table", "__iommu_table_end"), section(".iommu_table")),
    (
        record(
            "u32 detect, u32 depend, u32 early_init, u32 late_init, s32 flags",
            code("detect"),
            code("depend", nullable=True),
            code("early_init", nullable=True),
            code("late_init", nullable=True),
            number("flags", below=IOMMU_FLAGS),
        ),
    ),
)
