# SPDX-License-Identifier: MIT
"""Three machines side by side: original and rewritten kernel, natively and paravirtually.

They are compared event by event, at what the outside world and user space can see.
"""
