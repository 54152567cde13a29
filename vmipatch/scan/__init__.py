# SPDX-License-Identifier: MIT
"""Bytes to sites and ledger."""
