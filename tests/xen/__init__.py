# SPDX-License-Identifier: MIT
"""A Xen for the tests: how it is built, and rewritten kernels on it (make test-xen)."""
