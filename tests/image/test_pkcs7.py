# SPDX-License-Identifier: MIT
"""Is a signature refused that carries something else, or that its key did not make?

Signatures are built here by RFC 5652 and RFC 8017, with a key of two Mersenne primes.
"""

from __future__ import annotations

import hashlib

import pytest

from vmipatch.image.pkcs7 import BrokenSignature, KeyCheck, read_signature

PRIMES = 2**521 - 1, 2**607 - 1
MODULUS, EXPONENT = PRIMES[0] * PRIMES[1], 65537
SECRET = pow(EXPONENT, -1, (PRIMES[0] - 1) * (PRIMES[1] - 1))
MODULUS_LEN = (MODULUS.bit_length() + 7) // 8
CONTENT = b"the proven bytes"


def der(tag: int, *parts: bytes) -> bytes:
    """One value."""
    body = b"".join(parts)
    length = len(body).to_bytes(max((len(body).bit_length() + 7) // 8, 1), "big")
    front = length if len(body) < 0x80 else bytes((0x80 | len(length),)) + length
    return bytes((tag,)) + front + body


def number(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


NULL = der(5)
DATA = der(0x30, der(6, bytes.fromhex("2a864886f70d010701")))
SHA256 = der(6, bytes.fromhex("608648016503040201"))
RSA = der(0x30, der(6, bytes.fromhex("2a864886f70d010101")), NULL)
ISSUER = der(0x30, der(0x31, der(0x30, der(6, bytes.fromhex("550403")), der(12, b"someone"))))
KEY = der(0x30, number(MODULUS), number(EXPONENT))
CERTIFICATE = der(
    0x30,
    der(0x30, number(7), RSA, ISSUER, der(0x30), ISSUER, der(0x30, RSA, der(3, b"\0", KEY))),
    RSA,
    der(3, b"\0"),
)


def signed_info(parameters: bytes = NULL, after: bytes = b"", content: bytes = CONTENT) -> bytes:
    """The message that RSA signs: a DigestInfo, in the form of PKCS#1 version 1.5."""
    digest = der(4, hashlib.sha256(content).digest())
    info = der(0x30, der(0x30, SHA256, parameters), digest, after)
    return b"\0\1" + b"\xff" * (MODULUS_LEN - 3 - len(info)) + b"\0" + info


def value_of(encoded: bytes) -> bytes:
    """The signature of an encoded message."""
    return pow(int.from_bytes(encoded, "big"), SECRET, MODULUS).to_bytes(MODULUS_LEN, "big")


def signature(
    value: bytes, *, of_signer: bytes = b"", of_data: bytes = b"", certificates: bytes = CERTIFICATE
) -> bytes:
    """SignedData with one signer; more parts may stand in it and in its signer."""
    signer = der(
        0x30, number(1), der(0x30, ISSUER, number(7)), der(0x30, SHA256), RSA, der(4, value),
        of_signer,
    )  # fmt: skip
    data = der(
        0x30, number(1), der(0x31, der(0x30, SHA256)), DATA, der(0xA0, certificates), of_data,
        der(0x31, signer),
    )  # fmt: skip
    return der(0x30, der(6, bytes.fromhex("2a864886f70d010702")), der(0xA0, data))


def checked(encoded: bytes) -> KeyCheck:
    """Whether a value is taken for one that the key made for CONTENT."""
    return read_signature(signature(value_of(encoded))).check_key(CONTENT)


def test_signature_by_its_key_is_known() -> None:
    assert checked(signed_info()) is KeyCheck.SIGNED
    assert checked(signed_info(parameters=b"")) is KeyCheck.SIGNED
    assert checked(signed_info(content=b"other bytes")) is KeyCheck.OTHER
    assert read_signature(signature(value_of(signed_info()))).signer == "someone 7"


@pytest.mark.parametrize(
    "encoded",
    (
        signed_info(parameters=der(4, b"chosen, until a cube ends in it")),
        signed_info(parameters=NULL + NULL),
        signed_info(after=NULL),
        signed_info().replace(b"\xff", b"\xfe", 1),
        b"\0\1" + b"\xff" * 4 + b"\0" + signed_info()[-51:] + bytes(MODULUS_LEN - 58),
    ),
    ids=("parameters", "two parameters", "a part more", "other filler", "bytes after it"),
)
def test_encoding_that_leaves_a_choice_is_refused(encoded: bytes) -> None:
    """Bytes of choice serve a forger, if the exponent of the key is 3 (CVE-2006-4339)."""
    assert len(encoded) == MODULUS_LEN
    assert checked(encoded) is KeyCheck.OTHER


CARGO = der(4, b"anything else")


@pytest.mark.parametrize(
    "data",
    (
        signature(value_of(signed_info()), of_signer=CARGO),
        signature(value_of(signed_info()), of_signer=der(0xA1) + CARGO),
        signature(value_of(signed_info()), of_data=CARGO),
        signature(value_of(signed_info()), of_data=der(0xA1) + der(0xA1)),
        signature(b"anything else" * 1000),
    ),
    ids=("in the signer", "after its attributes", "in the data", "two lists", "as its value"),
)
def test_signature_that_carries_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenSignature):
        read_signature(data)


def test_length_has_one_form() -> None:
    data = signature(value_of(signed_info()))
    assert data[1] == 0x82
    longer = data[:1] + b"\x83\0" + data[2:]
    with pytest.raises(BrokenSignature, match="length"):
        read_signature(longer)
