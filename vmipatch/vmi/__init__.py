# SPDX-License-Identifier: MIT
"""The VMI binary interface: call numbers and the annotation record."""
