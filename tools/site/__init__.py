# SPDX-License-Identifier: MIT
"""How does docs become a site? Options and style for Sphinx."""
