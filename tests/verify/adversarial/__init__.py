# SPDX-License-Identifier: MIT
"""Changes of an output by somebody who knows its format and the code of the proof."""
