# SPDX-License-Identifier: MIT
"""What if a guest calls the ROM with nonsense? A guest, dice, and what must stay as it is."""
