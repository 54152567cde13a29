# SPDX-License-Identifier: MIT
"""What does i386 code mean? Sensitive instructions, decoders, the assembler."""
