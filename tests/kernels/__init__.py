# SPDX-License-Identifier: MIT
"""How do the test kernels come to be? Configurations, build scripts, initial file system."""
