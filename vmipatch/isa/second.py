# SPDX-License-Identifier: MIT
"""What does a decoder that the scan does not use see in these bytes (second decoder, capstone)?

The scan decodes with iced-x86, the proof with this one, so that a defect of one library cannot
hide a site. Known defects of capstone 5 are put right here, and nowhere else:

- `ud1` (0f b9 /r) is given as two bytes, its ModRM as an instruction of its own;
- `serialize` (0f 01 e8) is unknown, and so are privileged instructions newer than capstone, whose
  forms the table knows (RDPRU, INVLPGB, WRMSRNS, HRESET, ENQCMDS and others);
- near jcc (0f 80 to 0f 8f) after both f2 or f3 and 67 is unknown;
- far `ff /3` and `ff /5` carry the ids of near branches (they have no displacement, so that
  the opcode decides here).
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import capstone
import capstone.x86_const as x86
import numpy as np
import numpy.typing as npt

from vmipatch.errors import VmipatchError
from vmipatch.isa.classify import classify
from vmipatch.isa.emulated import XEN_PREFIX, emulated_prefixes
from vmipatch.isa.fill import link_fills
from vmipatch.isa.forms import WantedModrm

Octets = npt.NDArray[np.uint8]
Addresses = npt.NDArray[np.int64]


class Leaves(enum.IntEnum):
    """How control leaves an instruction."""

    NEXT = 0  # to the next one; indirect calls, interrupts and ud2 (a WARN) come back
    CALL = 1  # direct call
    JUMP = 2  # direct jump
    CONDITION = 3  # jcc
    LOOP = 4  # loop, loopcc, jecxz: displacements of one byte only
    STOP = 5  # ret, iret, sysexit, indirect jump
    NARROW = 6  # direct branch of 16 bits: its target is below 64 KiB


class Filler(enum.IntEnum):
    """The bytes that assemblers put between code."""

    CODE = 0
    NOP = 1
    INT3 = 2
    LINK_FILL = 3  # bytes that a linker put in a gap, each for itself: no instructions
    OPAQUE = 4  # bytes of code that is not for 32 bits, each for itself


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The instructions of a range, in address order: parallel arrays.

    `starts` (i64) and `lens` (i64) in bytes, `leaves` (u8, Leaves), `widths` (u8: bytes of the
    displacement of a direct branch, 0 for all else), `fillers` (u8, Filler), `known` (bool:
    False for a byte that is not an instruction; it counts as one of length 1).
    """

    starts: Addresses
    lens: Addresses
    leaves: Octets
    widths: Octets
    fillers: Octets
    known: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    starts: Addresses
    lens: Addresses
    ids: npt.NDArray[np.int64]


_COLUMNS = ("starts", "lens", "ids")
_NOTHING = _Piece(*(np.zeros(0, np.int64) for _ in _COLUMNS))
_UNKNOWN, _SERIALIZE, _NEWER = 0, -1, -2
_TRAPS = (x86.X86_INS_UD0, x86.X86_INS_UD1, x86.X86_INS_UD2)
_SERIALIZE_CODE = b"\x0f\x01\xe8"
_WINDOW = 1 << 16
_LONGEST = 15
_INSN = np.dtype(
    {
        "names": ["id", "address", "size"],
        "formats": ["<u4", "<u8", "<u2"],
        "offsets": [getattr(capstone._cs_insn, n).offset for n in ("id", "address", "size")],
        "itemsize": ctypes.sizeof(capstone._cs_insn),
    }
)


def decode_second(
    code: bytes,
    va: int,
    splits: Sequence[int] = (),
    ends: Sequence[int] = (),
    opaque: Sequence[tuple[int, int]] = (),
) -> Decoded:
    """Decode `code`, linked at `va`, from end to end.

    An instruction is known to begin at each address of `splits`: decoding starts anew there, and
    `0f ff` between two of them is an instruction. Functions end at `ends`: what a linker put after
    one is not an instruction. The bytes of `opaque` ranges, code of 16 bits, are instructions of
    one byte each that control does not leave.
    """
    splits = [at for at in splits if not any(low < at < high for low, high in opaque)]
    splits += [edge for edges in opaque for edge in edges]
    prefixes = emulated_prefixes(code)
    splits += [va + at + edge for at in prefixes for edge in (0, len(XEN_PREFIX))]
    inner = sorted({s for s in splits if va < s < va + len(code)})
    piece = _joined(_pieces(code, va))
    # Nearly always instructions begin at all splits, and decoding anew there changes nothing.
    over = np.searchsorted(piece.starts, inner, side="right") - 1
    if prefixes or not np.array_equal(piece.starts[over], inner):
        edges = pairwise([va, *inner, va + len(code)])
        piece = _joined(
            each for start, end in edges for each in _pieces(code[start - va : end - va], start)
        )
    octets = np.frombuffer(code + bytes(_LONGEST), np.uint8)
    found = _described(octets, va, piece.starts, piece.lens, piece.ids)
    found = _bytewise(found, opaque, Filler.OPAQUE)
    after = found.starts + found.lens
    is_last = np.isin(found.leaves, (Leaves.STOP, Leaves.JUMP, Leaves.CALL))
    traps = piece.starts[np.isin(piece.ids, _TRAPS)]
    last = after[is_last | np.isin(found.starts, traps)]
    last = np.unique(np.concatenate([last, np.array(ends, np.int64)]))
    core = found.starts[found.fillers == Filler.CODE]
    fills = link_fills(code, va, np.unique(np.array(splits, np.int64)), last, core)
    return _bytewise(found, [fill for fill in fills if fill[0] in after], Filler.LINK_FILL)


def _bytewise(found: Decoded, fills: Sequence[tuple[int, int]], filler: Filler) -> Decoded:
    """The same with each byte of `fills` for itself; instructions end where each range begins."""
    if not fills:
        return found
    kept = np.ones(len(found), np.bool_)
    for start, end in fills:
        kept[slice(*np.searchsorted(found.starts, (start, end)))] = False
    single = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in fills])
    count = len(single)
    order = np.argsort(np.concatenate([found.starts[kept], single]), kind="stable")

    def joined(column: np.ndarray, of_fill: np.ndarray | int) -> np.ndarray:
        added = np.broadcast_to(np.asarray(of_fill, column.dtype), count)
        return np.concatenate([column[kept], added])[order]

    return Decoded(
        joined(found.starts, single),
        joined(found.lens, 1),
        joined(found.leaves, Leaves.STOP),
        joined(found.widths, 0),
        joined(found.fillers, filler),
        joined(found.known, 1),
    )


def instruction_len(code: bytes) -> int:
    """Length of the instruction that `code` begins with, 0 if it is not one."""
    decoded = decode_second(code[:_LONGEST], 0)
    return int(decoded.lens[0]) if len(decoded) and decoded.known[0] else 0


@cache
def _engine() -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)


def _pieces(code: bytes, va: int) -> Iterator[_Piece]:
    """Decode one run without splits, window by window; put right what capstone does not know."""
    if code == XEN_PREFIX:
        yield _single(va, len(code), x86.X86_INS_UD2)
        return
    done = 0
    while done < len(code):
        window = code[done : done + _WINDOW]
        is_last = done + len(window) == len(code)
        piece = _bulk(window, va + done)
        broken = np.flatnonzero(piece.ids == x86.X86_INS_UD1)
        keep = int(broken[0]) if len(broken) else len(piece.ids)
        if not len(broken) and not is_last:
            # The last instruction of a window may be cut: the next window begins with it.
            fits = piece.starts + piece.lens - (va + done) <= len(window) - _LONGEST
            keep = min(keep, int(fits.sum())) or keep
        if keep:
            kept = _Piece(piece.starts[:keep], piece.lens[:keep], piece.ids[:keep])
            yield kept
            done = int(kept.starts[-1] + kept.lens[-1]) - va
            if not len(broken) and not is_last:
                continue
        if done < len(code):
            length, code_id = _by_hand(code[done : done + _LONGEST])
            yield _single(va + done, length, code_id)
            done += length


def _single(va: int, length: int, code_id: int) -> _Piece:
    return _Piece(*(np.array([number], np.int64) for number in (va, length, code_id)))


def _joined(pieces: Iterable[_Piece]) -> _Piece:
    parts = [_NOTHING, *pieces]
    return _Piece(*(np.concatenate([getattr(p, n) for p in parts]) for n in _COLUMNS))


def _bulk(code: bytes, va: int) -> _Piece:
    """The instructions that capstone itself finds, up to the first byte that it does not know."""
    found = ctypes.POINTER(capstone._cs_insn)()
    text = ctypes.cast(ctypes.c_char_p(code), ctypes.POINTER(ctypes.c_char))
    count = capstone._cs.cs_disasm(_engine().csh, text, len(code), va, 0, ctypes.byref(found))
    if not count:
        return _NOTHING
    rows = np.frombuffer(ctypes.string_at(found, count * _INSN.itemsize), dtype=_INSN)
    piece = _Piece(*(rows[n].astype(np.int64) for n in ("address", "size", "id")))
    capstone._cs.cs_free(found, count)
    return piece


def _by_hand(code: bytes) -> tuple[int, int]:
    """Length and id of an instruction that capstone gets wrong or does not know."""
    if code[:3] == _SERIALIZE_CODE:
        return 3, _SERIALIZE
    at = next((i for i, byte in enumerate(code) if byte not in _LEGACY), len(code))
    if code[at : at + 2] == b"\x0f\xb9" and len(code) > at + 2:
        # 0f af (imul r32, r/m32) has the same operands, and capstone knows it.
        twin = _bulk(code[:at] + b"\x0f\xaf" + code[at + 2 :], 0)
        if len(twin.lens):
            return int(twin.lens[0]), int(x86.X86_INS_UD1)
    if _LOCK not in code[:at] and (length := _by_form(code, at)):
        return length, _NEWER
    is_near = code[at : at + 1] == b"\x0f" and code[at + 1 : at + 2] in _NEAR_CONDITIONS
    if is_near and _LOCK not in code[:at]:
        bare = _bulk(b"\x66" * (_OPERAND_SIZE in code[:at]) + code[at:], 0)
        if len(bare.lens):
            length = at + int(bare.lens[0]) - (_OPERAND_SIZE in code[:at])
            return length, int(bare.ids[0])
    return 1, _UNKNOWN


def _by_form(code: bytes, opcode_at: int) -> int:
    """Length of an instruction that is in the table of sensitive forms, 0 if it is not or is cut.

    Its ModRM is as long as that of 0f af (imul r32, r/m32); map 0f 3a has a byte of immediate.
    """
    form = classify(code)
    if form is None:
        return 0
    modrm_at = opcode_at + len(form.opcode)
    length = modrm_at + (form.opcode[:2] == _BYTE_MAP)
    if form.operand is not WantedModrm.NONE:
        halved = bytes((_ADDRESS_SIZE,)) * (_ADDRESS_SIZE in code[:opcode_at])
        twin = _bulk(halved + b"\x0f\xaf" + code[modrm_at:], 0)
        length += int(twin.lens[0]) - 2 - len(halved) if len(twin.lens) else _LONGEST
    return length if length <= len(code) else 0


_BYTE_MAP, _ADDRESS_SIZE = b"\x0f\x3a", 0x67
_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_IS_LEGACY = np.isin(np.arange(256), sorted(_LEGACY))
_IS_SEGMENT = np.isin(np.arange(256), [0x26, 0x2E, 0x36, 0x3E])
_OPERAND_SIZE, _LOCK = 0x66, 0xF0
_NEAR_CONDITIONS = [bytes((0x80 + condition,)) for condition in range(16)]


def _described(
    octets: Octets, va: int, starts: Addresses, lens: Addresses, ids: npt.NDArray[np.int64]
) -> Decoded:
    """Add what an id and the bytes of each instruction say."""
    if len(starts) and (np.any(starts[1:] != (starts + lens)[:-1]) or starts[0] != va):
        raise VmipatchError("the second decoder lost its place", hint="this is a bug of vmipatch")
    offs = starts - va
    leaves = _leaves(ids)
    widths = np.zeros(len(ids), np.uint8)
    branches = np.flatnonzero(leaves)
    opcode_at = offs[branches].copy()
    halved = np.zeros(len(branches), np.bool_)
    for _ in range(int(lens[branches].max(initial=0)) - 1):
        halved |= octets[opcode_at] == _OPERAND_SIZE
        opcode_at += _IS_LEGACY[octets[opcode_at]]
    opcode, second = octets[opcode_at], octets[opcode_at + 1]
    short = (opcode & 0xF0 == 0x70) | (opcode == 0xEB) | (opcode & 0xFC == 0xE0)
    near = (opcode & 0xFE == 0xE8) | ((opcode == 0x0F) & (second & 0xF0 == 0x80))
    widths[branches] = np.where(short, 1, np.where(near, 4, 0))
    narrow = branches[halved & (widths[branches] > 0)]
    widths[narrow], leaves[narrow] = 0, Leaves.NARROW
    # Branches through a register or memory, and far ones.
    leaves[(widths == 0) & (leaves == Leaves.CALL)] = Leaves.NEXT
    leaves[(widths == 0) & (leaves == Leaves.JUMP)] = Leaves.STOP
    known = ids != _UNKNOWN
    return Decoded(starts, lens, leaves, widths, _fillers(octets, offs, lens, ids), known)


def _leaves(ids: npt.NDArray[np.int64]) -> Octets:
    return _leaves_by_id()[np.maximum(ids, 0)]


@cache
def _leaves_by_id() -> Octets:
    table = np.zeros(int(x86.X86_INS_ENDING) + 1, np.uint8)
    for name, value in vars(x86).items():
        if name.startswith("X86_INS_J") and isinstance(value, int):
            table[value] = Leaves.CONDITION
    table[x86.X86_INS_CALL] = Leaves.CALL
    table[[x86.X86_INS_JMP, x86.X86_INS_LJMP]] = Leaves.JUMP
    loops = ("LOOP", "LOOPE", "LOOPNE", "JCXZ", "JECXZ")
    table[[getattr(x86, f"X86_INS_{name}") for name in loops]] = Leaves.LOOP
    stops = ("RET", "RETF", "IRET", "IRETD", "SYSEXIT", "SYSRET", "RSM")
    table[[getattr(x86, f"X86_INS_{name}") for name in stops]] = Leaves.STOP
    return table


def _fillers(
    octets: Octets, offs: Addresses, lens: Addresses, ids: npt.NDArray[np.int64]
) -> Octets:
    """Nops as gas and the kernel write them, and int3."""
    result = np.zeros(len(ids), np.uint8)
    nops = np.flatnonzero(ids == x86.X86_INS_NOP)
    result[nops[_are_of_assemblers(octets, offs[nops])]] = Filler.NOP
    result[ids == x86.X86_INS_INT3] = Filler.INT3
    same = _moves_to_itself(octets, offs, ids) | _loads_its_base(octets, offs, lens, ids)
    result[same] = Filler.NOP
    return result


def _are_of_assemblers(octets: Octets, offs: Addresses) -> npt.NDArray[np.bool_]:
    """Which nops are 90 or 0f 1f: capstone calls reserved ones (0f 18 to 0f 1e) nops as well."""
    at = offs.copy()
    for _ in range(_LONGEST - 1):
        at += _IS_LEGACY[octets[at]]
    result: npt.NDArray[np.bool_] = (octets[at] == 0x90) | (
        (octets[at] == 0x0F) & (octets[at + 1] == 0x1F)
    )
    return result


def _moves_to_itself(
    octets: Octets, offs: Addresses, ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """`mov esi, esi` and kin: 89 or 8b with the same register twice."""
    opcode, modrm = octets[offs], octets[offs + 1]
    result: npt.NDArray[np.bool_] = (
        (ids == x86.X86_INS_MOV)
        & (opcode & 0xFD == 0x89)
        & (modrm >> 6 == 3)
        & (modrm & 7 == (modrm >> 3) & 7)
    )
    return result


def _loads_its_base(
    octets: Octets, offs: Addresses, lens: Addresses, ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """`lea esi, [esi + 0]` and kin, with or without SIB and segment prefixes.

    The register may be base or index: `8d 04 05 00 00 00 00` is one of the Athlon's nops.
    """
    result = np.zeros(len(ids), np.bool_)
    which = np.flatnonzero(ids == x86.X86_INS_LEA)
    at = offs[which].copy()
    for _ in range(4):
        at += _IS_SEGMENT[octets[at]]
    modrm, sib = octets[at + 1], octets[at + 2]
    reg, has_sib = (modrm >> 3) & 7, modrm & 7 == 4
    base = np.where(has_sib, sib & 7, modrm & 7)
    index, scale = (sib >> 3) & 7, sib >> 6
    has_base = (modrm >> 6 != 0) | (base != 5)
    no_index = ~has_sib | (index == 4)
    alone = np.where(has_base, (reg == base) & no_index, has_sib & (reg == index) & ~no_index)
    alone &= no_index | (scale == 0)
    disp_len = offs[which] + lens[which] - (at + 2 + has_sib)
    zero = np.ones(len(which), np.bool_)
    for back in range(1, 5):
        zero &= (disp_len < back) | (octets[offs[which] + lens[which] - back] == 0)
    result[which] = (octets[at] == 0x8D) & alone & zero
    return result
