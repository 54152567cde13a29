# SPDX-License-Identifier: MIT
"""Examples that need no kernel of one's own: a guest kernel and recipes."""
