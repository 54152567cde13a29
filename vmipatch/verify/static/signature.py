# SPDX-License-Identifier: MIT
"""How is a signature named that somebody else put on an output?"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.image.pkcs7 import KeyCheck


@dataclass(frozen=True, slots=True)
class Foreign:
    """A signature that somebody else put on the output."""

    kind: str
    """`module signature` or `Authenticode`."""
    signer: str
    digest: str
    """The name of its algorithm."""
    length: int
    """Bytes of the file that it takes."""
    named: bool
    """Whether the digest is named in it, and was compared."""
    key: KeyCheck

    @property
    def is_checked(self) -> bool:
        """Whether it is known to sign the proven bytes; else only who has the key can tell."""
        return self.named or self.key is KeyCheck.SIGNED

    def __str__(self) -> str:
        covers = "of the proven bytes" if self.is_checked else "that only its key can read"
        return f"{self.kind} by {self.signer}: {self.digest} {covers}, {self.key.value}"
