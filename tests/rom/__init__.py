# SPDX-License-Identifier: MIT
"""Does the VMI ROM keep its promises to BIOS, kernel and hypervisor?"""
