# SPDX-License-Identifier: MIT
"""A rewritten kernel as domain 0 of Xen: the ROM's sources and code, and the image that Xen starts.

Nothing is imported here: building a wheel uses `compiler` alone, before there are dependencies.
"""
