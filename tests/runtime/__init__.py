# SPDX-License-Identifier: MIT
"""What the runtime does, one routine at a time, in a bare CPU."""
