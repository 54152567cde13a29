# SPDX-License-Identifier: MIT
"""Do Debian's own kernels hold what is promised? The marker `distro` (make test-distro)."""
