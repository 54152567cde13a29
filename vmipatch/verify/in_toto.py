# SPDX-License-Identifier: MIT
"""How is a certificate attested? As an in-toto Statement, ready to be signed by cosign or sigstore.

Source: in-toto Attestation Framework, spec/v1/statement.md and spec/v1/resource_descriptor.md. The
predicate is the certificate itself; its type names the certificate's schema and version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:vmipatch:{}"

Subject = tuple[str, str]
"""Name of a shipped file and its SHA-256 in hexadecimal."""


def statement(
    subjects: Iterable[Subject], schema: str, certificate: dict[str, Any]
) -> dict[str, Any]:
    """The Statement about `subjects`; `schema` is the certificate's, as vmipatch.certificate/1.

    A name is a path below what was verified, or the file's own: never one of a directory of this
    machine.
    """
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE.format(schema.removeprefix("vmipatch.").replace("/", ":")),
        "predicate": certificate,
    }
