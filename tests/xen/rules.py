# SPDX-License-Identifier: MIT
"""In which lines may a kernel on Xen differ from the same kernel on the bare machine?

The workload's own output may not. A row: a pattern that whole lines of the kernel match, and why.
"""

from __future__ import annotations

import re
from typing import Final

RULES: Final[tuple[tuple[str, str], ...]] = (
    (
        r"BIOS-e820:.*|node +\d+: \[mem.*|Initmem setup.*|(mapped )?low ram:.*"
        r"|(DMA|Normal) +\[mem.*|RAMDISK:.*|last_pfn.*|\d+MB LOWMEM.*|Memory:.*"
        r"|On node \d+, zone.*|DMA zone:.*"
        r"|\[mem .* available for PCI.*|PM: hibernation: Registered nosave.*",
        "the memory is domain 0's, and lies elsewhere",
    ),
    (
        r".* hash table entries:.*|TCP: Hash tables configured.*|workingset:.*",
        "sizes follow from how much memory there is",
    ),
    (
        r".*NX \(Execute Disable\).*|NX-protecting .*|x86/PAT:.*|Disabled|x86/mm: Checked W\+X.*",
        "NX, PAT and MTRR are Xen's, and hidden",
    ),
    (
        r"Last level [id]TLB.*|HugeTLB:.*|hugetlbfs: disabling.*|.*(PMU|perfctr).*|mce: .*",
        "large pages, counters and machine checks are Xen's, and hidden",
    ),
    (
        r"IOAPIC\[\d+\].*|NR_IRQS.*|BIOS bug: APIC version mismatch.*",
        "there is no I/O APIC to look at",
    ),
    (
        r"SMBIOS.*|DMI.*|PnPBIOS:.*|PNPBIOS.*|Console: colour.*|pci .* IRQ router.*",
        "the BIOS is hidden, and with it what it knows",
    ),
    (
        r"tsc: .*|clocksource: .*|Calibrating delay.*|Unstable clock detected.*"
        r"|If you want to keep using the local clock.*|\"trace_clock=local\""
        r"|on the kernel command line|pci .* took \d+ usecs",
        "the timer is Xen's, and the counter's frequency is not measured with it",
    ),
)
_ANY: Final = re.compile("|".join(f"(?:{pattern})" for pattern, _ in RULES))


def unexplained(differences: list[str]) -> list[str]:
    """Of differing lines, marked with `- ` or `+ `, those that no rule is for."""
    return [line for line in differences if not _ANY.fullmatch(line[2:].strip())]
