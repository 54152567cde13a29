# SPDX-License-Identifier: MIT
"""How does a script ask a module for a hash? Static programs that use a socket of AF_ALG.

Linux, Documentation/crypto/userspace-if.rst: bind names the algorithm, an option of the socket sets
the key, what is written to an accepted socket is hashed, and read gives the hash. A program writes
it to its standard output; if something goes wrong its exit status is the error number.
"""

from __future__ import annotations

import struct

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.isa.assemble import assemble

_LINK_VA = 0x08048000
_DATA_VA = 0x08050000
_AF_ALG, _SEQPACKET, _SOL_ALG, _SET_KEY = 38, 5, 279, 1
_HASH_OFF = 0x400
_HASH_LEN = 64

# socketcall (102): socket 1, bind 2, accept 5, setsockopt 14. EDI is the socket, then what accept
# gave.
_PROGRAM = """
start:
    mov esi, DATA
    mov ebx, 1
    mov ecx, esi
    call socketcall
    mov edi, eax
    mov dword ptr [esi + 12], edi
    mov dword ptr [esi + 24], edi
    mov dword ptr [esi + 44], edi
    mov ebx, 2
    lea ecx, [esi + 12]
    call socketcall
    cmp dword ptr [esi + 40], 0
    je keyless
    mov ebx, 14
    lea ecx, [esi + 24]
    call socketcall
keyless:
    mov ebx, 5
    lea ecx, [esi + 44]
    call socketcall
    mov edi, eax
    mov eax, 4                          # write
    mov ebx, edi
    mov ecx, dword ptr [esi + 56]
    mov edx, dword ptr [esi + 60]
    call system
    mov eax, 3                          # read
    mov ebx, edi
    lea ecx, [esi + HASH]
    mov edx, HASH_LEN
    call system
    mov edx, eax
    mov eax, 4
    mov ebx, 1
    call system
    mov eax, 0
    jmp leave
socketcall:
    mov eax, 102
system:
    int 0x80
    cmp eax, 0
    jl leave
    ret
leave:
    neg eax
    mov ebx, eax
    mov eax, 1                          # exit
    int 0x80
"""


def program(algorithm: str, message: bytes, key: bytes = b"") -> bytes:
    """An i386 program that has Linux hash `message` by `algorithm`."""
    names = {"DATA": _DATA_VA, "HASH": _HASH_OFF, "HASH_LEN": _HASH_LEN}
    linked = assemble(_PROGRAM, _LINK_VA, symbols=names, name="hashing")
    builder = ElfBuilder(entry=linked.labels["start"], physical_offset=0)
    builder.section(".text", _LINK_VA, linked.code, TEXT)
    builder.section(".data", _DATA_VA, _data(algorithm, message, key), DATA)
    return builder.build()


def _data(algorithm: str, message: bytes, key: bytes) -> bytes:
    """Arguments of the calls, then what they point to; sockets are filled in on the way."""
    address = struct.pack("<H14sII64s", _AF_ALG, b"hash", 0, 0, algorithm.encode())
    address_va = _DATA_VA + 64
    message_va = address_va + len(address)
    key_va = message_va + len(message)
    words = (
        *(_AF_ALG, _SEQPACKET, 0),
        *(0, address_va, len(address)),
        *(0, _SOL_ALG, _SET_KEY, key_va, len(key)),
        *(0, 0, 0),
        *(message_va, len(message)),
    )
    data = struct.pack("<16I", *words) + address + message + key
    assert len(data) <= _HASH_OFF
    return data.ljust(_HASH_OFF + _HASH_LEN, b"\0")
