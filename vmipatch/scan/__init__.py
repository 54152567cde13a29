# SPDX-License-Identifier: MIT
"""Bytes to sites and ledger."""

from vmipatch.scan.scan import ScanResult, scan
from vmipatch.scan.site import Disposition, Reason, Site

__all__ = ["Disposition", "Reason", "ScanResult", "Site", "scan"]
