# SPDX-License-Identifier: MIT
"""What can be tried without a kernel of one's own: a guest kernel and recipes."""
