# SPDX-License-Identifier: MIT
"""Who signed what, as a PKCS#7 signature says it: module signatures, Authenticode.

Only what is needed to hold a signature against a file: the digest that it signs, directly or in its
attributes, the signer's name, and, where the signer's certificate is in it and its key is RSA,
whether the key signed that digest.
Source: RFC 2315 and RFC 5652 (SignedData), RFC 5280 (certificates), RFC 8017 (RSA), X.690 (DER).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

_SEQUENCE, _SET, _INTEGER, _OCTETS, _OID, _BITS = 0x30, 0x31, 0x02, 0x04, 0x06, 0x03
_CONTEXT_0, _CONTEXT_1 = 0xA0, 0xA1
_KEY_ID = 0x80
_NULL = b"\5\0"
_LONGEST_VALUE = 2048
"""Bytes of a signature by an RSA key of 16,384 bits, the longest that OpenSSL takes."""
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_COMMON_NAME, _RSA = "2.5.4.3", "1.2.840.113549.1.1.1"
_DIGESTS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
"""Object identifiers of the digests that hashlib has (RFC 8017, appendix B.1)."""
_SOME_OF_BOTH: tuple[list[int], ...] = ([], [_CONTEXT_0], [_CONTEXT_1], [_CONTEXT_0, _CONTEXT_1])
"""Tags of certificates and revocation lists, each of which may be missing."""


class BrokenSignature(Exception):
    """Bytes that should be a signature are not one; the message says why."""


class KeyCheck(enum.Enum):
    """Whether the signer's key is known, and signed."""

    SIGNED = "its key signed the digest"
    OTHER = "its key did not sign the digest"
    UNKNOWN = "its key is not in the file"


@dataclass(frozen=True, slots=True)
class DerNode:
    """One value of a DER encoding."""

    tag: int
    content: bytes = field(repr=False)
    encoded: bytes = field(repr=False)
    """With tag and length."""

    def children(self) -> list[DerNode]:
        """The values in it. Raises BrokenSignature."""
        return list(_nodes(self.content))


@dataclass(frozen=True, slots=True)
class Signature:
    """A PKCS#7 SignedData with one signer."""

    length: int
    """Bytes of its encoding."""
    digest_name: str
    """As hashlib calls it."""
    content: bytes | None = field(repr=False)
    """Signed bytes in the signature, without tag and length; None if it is detached."""
    message_digest: bytes | None
    """Of the content, as the signed attributes name it; None if there are none."""
    signer: str
    """Common name of the issuer and serial number, or the identifier of the key."""
    attributes: bytes | None = field(repr=False)
    value: bytes = field(repr=False)
    key: tuple[int, int] | None
    """Modulus and exponent of the signer's RSA key, if its certificate is there."""

    def digest(self, data: bytes) -> bytes:
        """The digest of `data` by the signature's algorithm."""
        return hashlib.new(self.digest_name, data).digest()

    def check_key(self, content: bytes) -> KeyCheck:
        """Whether the signer's key signed the attributes, or `content` if there are none."""
        if self.key is None:
            return KeyCheck.UNKNOWN
        signed = content if self.attributes is None else self.attributes
        modulus, exponent = self.key
        length = (modulus.bit_length() + 7) // 8
        value = int.from_bytes(self.value, "big")
        if len(self.value) != length or value >= modulus:
            return KeyCheck.OTHER
        found = pow(value, exponent, modulus).to_bytes(length, "big")
        front, _, info = found[2:].partition(b"\0")
        if found[:2] != b"\0\1" or len(front) < 8 or front.strip(b"\xff"):
            return KeyCheck.OTHER
        try:
            algorithm, digest = _only(info, _SEQUENCE).children()
            kind, *parameters = algorithm.children()
            name = _DIGESTS.get(_oid(kind))
        except (BrokenSignature, ValueError, IndexError):
            return KeyCheck.OTHER
        # What could stand in the parameters could be chosen, until a cube ends in it.
        is_bare = [node.encoded for node in parameters] in ([], [_NULL])
        is_digest = digest.tag == _OCTETS and digest.content == self.digest(signed)
        is_right = name == self.digest_name and is_bare and is_digest
        return KeyCheck.SIGNED if is_right else KeyCheck.OTHER


def read_signature(data: bytes) -> Signature:
    """The signature that `data` begins with.

    Raises BrokenSignature if that is not a PKCS#7 SignedData with one signer and a known digest.
    """
    try:
        whole = next(_nodes(data), None)
        if whole is None or whole.tag != _SEQUENCE:
            raise BrokenSignature("it is not a sequence")
        kind, wrapped = whole.children()
        if _oid(kind) != _SIGNED_DATA or wrapped.tag != _CONTEXT_0:
            raise BrokenSignature("it is not SignedData")
        (signed,) = wrapped.children()
        version, _, encapsulated, *rest = signed.children()
        *optional, signers = rest
        if version.tag != _INTEGER or signers.tag != _SET:
            raise BrokenSignature("it is not SignedData")
        if [node.tag for node in optional] not in _SOME_OF_BOTH:
            raise BrokenSignature("it has parts that SignedData has not")
        content = _content(encapsulated)
        stored = next((node for node in optional if node.tag == _CONTEXT_0), None)
        certificates = [] if stored is None else stored.children()
        (signer,) = signers.children()
        return _of_signer(signer, len(whole.encoded), content, certificates)
    except (ValueError, IndexError) as error:
        raise BrokenSignature(f"it is cut off or has other parts ({error})") from error


def _content(encapsulated: DerNode) -> bytes | None:
    _, *content = encapsulated.children()
    if not content:
        return None
    (inner,) = content[0].children()
    return inner.content


def _of_signer(
    signer: DerNode, length: int, content: bytes | None, certificates: list[DerNode]
) -> Signature:
    _, identifier, algorithm, *rest = signer.children()
    digest_name = _DIGESTS.get(_oid(algorithm.children()[0]))
    if digest_name is None:
        raise BrokenSignature("its digest is not one that is known")
    attributes, named = None, None
    if rest[0].tag == _CONTEXT_0:
        # Signed as a SET (RFC 5652, section 5.4).
        attributes = bytes((_SET,)) + rest[0].encoded[1:]
        named = _message_digest(rest[0])
        if named is None:
            raise BrokenSignature("its attributes name no digest")
        rest = rest[1:]
    _, value, *unsigned = rest
    if value.tag != _OCTETS or len(value.content) > _LONGEST_VALUE:
        raise BrokenSignature("its value is not there, or longer than that of any key")
    if [node.tag for node in unsigned] not in ([], [_CONTEXT_1]):
        raise BrokenSignature("its signer has parts that SignerInfo has not")
    return Signature(
        length, digest_name, content, named, _name_of(identifier), attributes, value.content,
        _key_of(identifier, certificates),
    )  # fmt: skip


def _message_digest(attributes: DerNode) -> bytes | None:
    for attribute in attributes.children():
        kind, values = attribute.children()
        if _oid(kind) == _MESSAGE_DIGEST:
            (digest,) = values.children()
            return digest.content
    return None


def _name_of(identifier: DerNode) -> str:
    if identifier.tag == _KEY_ID:
        return f"key {identifier.content.hex()}"
    issuer, serial = identifier.children()
    number = int.from_bytes(serial.content, "big", signed=True)
    for part in issuer.children():
        for attribute in part.children():
            kind, value = attribute.children()
            if _oid(kind) == _COMMON_NAME:
                return f"{value.content.decode(errors='replace')} {number:x}"
    return f"{number:x}"


def _key_of(identifier: DerNode, certificates: list[DerNode]) -> tuple[int, int] | None:
    """The RSA key of the certificate that the signer names."""
    for certificate in certificates:
        fields = certificate.children()[0].children()
        fields = fields[1:] if fields[0].tag == _CONTEXT_0 else fields
        serial, _, issuer = fields[:3]
        if identifier.tag != _KEY_ID and [issuer, serial] != identifier.children():
            continue
        algorithm, bits = fields[5].children()
        if _oid(algorithm.children()[0]) == _RSA and bits.tag == _BITS:
            modulus, exponent = _only(bits.content[1:], _SEQUENCE).children()
            return tuple(int.from_bytes(n.content, "big") for n in (modulus, exponent))  # type: ignore[return-value]
    return None


def _only(data: bytes, tag: int) -> DerNode:
    (found,) = _nodes(data)
    if found.tag != tag:
        raise BrokenSignature("it has another part than expected")
    return found


def _oid(node: DerNode) -> str:
    """The dotted form of an object identifier."""
    if node.tag != _OID or not node.content:
        raise BrokenSignature("an identifier is missing")
    numbers, value = [], 0
    for octet in node.content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _nodes(data: bytes) -> Iterator[DerNode]:
    """The values that stand one after the other in `data`. Raises BrokenSignature."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise BrokenSignature("it is cut off")
        tag, length, body = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[body : body + count], "big")
            body += count
            if not 1 <= count <= 4 or length < 1 << max(8 * count - 8, 7):
                raise BrokenSignature("a length is not written as DER has it")
        if body + length > len(data):
            raise BrokenSignature("it is cut off")
        yield DerNode(tag, data[body : body + length], data[at : body + length])
        at = body + length
