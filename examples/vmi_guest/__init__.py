# SPDX-License-Identifier: MIT
"""A guest that knows VMI from its document alone, and checks every call itself."""
