# SPDX-License-Identifier: MIT
"""Sites to a new image."""
