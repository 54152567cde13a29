# SPDX-License-Identifier: MIT
"""How does a guest kernel run without being at CPL 0? A hypervisor emulates what it must not do."""
