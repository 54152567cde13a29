# SPDX-License-Identifier: MIT
"""What i386 means: sensitive instructions, decoders, the assembler."""
