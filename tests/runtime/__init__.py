# SPDX-License-Identifier: MIT
"""Does the runtime do its work, one routine at a time, in a bare CPU?"""
