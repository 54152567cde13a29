# SPDX-License-Identifier: MIT
"""Where instructions begin, and what the scan needs to know of each (first decoder: iced-x86).

A kernel has more than a million instructions, so a stream is a handful of arrays and not a list of
objects; a caller that needs one instruction takes its bytes.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice, pairwise

import iced_x86
import numpy as np

from vmipatch.isa.classify import has_sensitive_opcode
from vmipatch.isa.emulated import XEN_PREFIX, emulated_prefixes
from vmipatch.isa.fill import link_fills


class Flow(enum.IntEnum):
    """How control leaves an instruction, as far as layout cares."""

    NEXT = 0  # falls through; calls through registers and interrupts do too
    CALL = 1  # call rel32
    JUMP = 2  # jmp rel8, jmp rel32
    CONDITION = 3  # jcc rel8, jcc rel32
    LOOP = 4  # loop, loopcc, jecxz: rel8 only
    STOP = 5  # ret, iret, indirect jump, ud2: does not fall through
    NARROW = 6  # a direct branch of 16 bits (prefix 66): to below 64 KiB, where no kernel is


class Shape(enum.IntEnum):
    """The padding that compilers and linkers emit."""

    CODE = 0
    NOP = 1
    INT3 = 2
    LINK_FILL = 3  # no instruction: see vmipatch.isa.fill
    OPAQUE = 4  # code that is not for 32 bits, kept byte for byte


@dataclass(frozen=True, eq=False)
class InstructionStream:
    """The instructions of one section, in address order.

    The arrays run in parallel: start address (u32), length in bytes (u8, 0 is never used), and
    the decoder's code (u16; 0 marks a byte that decodes as nothing, of length 1).
    """

    va: int
    code: bytes = field(repr=False)
    starts: np.ndarray
    lens: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def end_va(self) -> int:
        """First address after the stream."""
        return self.va + len(self.code)

    def bytes_at(self, index: int) -> bytes:
        """The bytes of instruction `index`."""
        off = int(self.starts[index]) - self.va
        return self.code[off : off + int(self.lens[index])]

    def index_of(self, va: int) -> int:
        """Index of the instruction that starts at `va`, or -1."""
        at = int(np.searchsorted(self.starts, np.uint32(va)))  # of one type: no copy of the array
        return at if at < len(self) and int(self.starts[at]) == va else -1

    def index_over(self, va: int) -> int:
        """Index of the instruction that contains `va` (which lies in the stream)."""
        return int(np.searchsorted(self.starts, np.uint32(va), side="right")) - 1

    @cached_property
    def flows(self) -> np.ndarray:
        """Flow of every instruction (u8)."""
        flows: np.ndarray = self._traits[0][self.codes]
        return flows

    @cached_property
    def undecodable(self) -> np.ndarray:
        """Indexes of bytes that no instruction covers."""
        return np.flatnonzero(self.codes == 0)

    @cached_property
    def opaque(self) -> np.ndarray:
        """Indexes of bytes of code that is not for 32 bits."""
        return np.flatnonzero(self.codes == OPAQUE_BYTE)

    @cached_property
    def sensitive_candidates(self) -> np.ndarray:
        """Indexes of instructions whose code has, for some operands, a sensitive form."""
        return np.flatnonzero(self._traits[1][self.codes])

    @cached_property
    def shapes(self) -> np.ndarray:
        """Shape of every instruction (u8): code, nop or int3."""
        result = np.zeros(len(self), dtype=np.uint8)
        octets = np.frombuffer(self.code, dtype=np.uint8)
        for code in np.flatnonzero(np.bincount(self.codes)).tolist():
            name = _CODE_NAMES.get(code, "")
            if name == "INT3":
                result[self.codes == code] = Shape.INT3
            elif code in _BYTEWISE:
                result[self.codes == code] = _BYTEWISE[code]
            elif name.startswith("NOP"):
                result[self.codes == code] = Shape.NOP
            elif name in _NOP_ENDS:
                index = np.flatnonzero(self.codes == code)
                last = octets[self.starts[index].astype(np.int64) - self.va + self.lens[index] - 1]
                is_likely = np.isin(last, list(_NOP_ENDS[name]))
                is_likely |= (name == "LEA_R32_M") & (self.lens[index] <= SHORT_LEA_LEN)
                likely = index[is_likely]
                result[likely[self._are_nops(likely)]] = Shape.NOP
        return result

    def _are_nops(self, index: np.ndarray) -> np.ndarray:
        """Which of these instructions are nops. Of the short ones each encoding is decoded once:
        none is another with zeros after it, so that its bytes as a number tell it apart.
        """
        lens = self.lens[index]
        windows = np.ndarray(len(self.code), "<u8", self.code + bytes(8), strides=(1,))
        keys = windows[self.starts[index].astype(np.int64) - self.va] & _LOW_BYTES[lens]
        first, inverse = np.unique(keys, return_index=True, return_inverse=True)[1:]
        found = np.array([is_nop(self.bytes_at(i)) for i in index[first].tolist()], np.bool_)[
            inverse
        ]
        is_long = np.flatnonzero(lens > 8)
        found[is_long] = [is_nop(self.bytes_at(i)) for i in index[is_long].tolist()]
        return found

    @cached_property
    def branches(self) -> np.ndarray:
        """Indexes of direct branches: calls, jumps, conditions and loops."""
        flows = self.flows
        return np.flatnonzero((flows >= Flow.CALL) & (flows <= Flow.LOOP))

    @cached_property
    def branch_widths(self) -> np.ndarray:
        """Bytes of displacement (1 or 4) of each of `branches`."""
        flows, lens = self.flows[self.branches], self.lens[self.branches]
        at = self.starts[self.branches].astype(np.int64) - self.va
        octets = np.frombuffer(self.code, dtype=np.uint8)
        # Hints and other prefixes may stand before the opcode, which alone tells.
        for _ in range(int(lens.max(initial=0)) - 2):
            at += _IS_PREFIX[octets[at]]
        opcode = octets[at]
        short = (opcode & 0xF0 == 0x70) | (opcode == 0xEB) | (flows == Flow.LOOP)
        return np.where(short, 1, 4)

    @cached_property
    def branch_targets(self) -> np.ndarray:
        """Target address (i64) of each of `branches`."""
        ends = self.starts[self.branches].astype(np.int64) + self.lens[self.branches]
        octets = np.frombuffer(self.code, dtype=np.uint8)
        at = ends - self.va
        near = np.zeros(len(at), dtype=np.uint32)
        wide = self.branch_widths == 4
        for shift in range(4):
            byte = octets[at[wide] - 4 + shift].astype(np.uint32)
            near[wide] |= byte << np.uint32(8 * shift)
        disp = near.view(np.int32).astype(np.int64)
        disp[~wide] = octets[at[~wide] - 1].view(np.int8)
        targets: np.ndarray = (ends + disp) & 0xFFFFFFFF
        return targets

    @cached_property
    def _traits(self) -> tuple[np.ndarray, np.ndarray]:
        """Per decoder code: its Flow, and whether it can be sensitive; learnt from examples."""
        top = int(self.codes.max()) + 1 if len(self) else 1
        flows = np.zeros(top, dtype=np.uint8)
        sensitive = np.zeros(top, dtype=bool)
        kinds, first = np.unique(self.codes, return_index=True)
        for code, index in zip(kinds.tolist(), first.tolist(), strict=True):
            if code:
                if code in _NO_ENCODING:
                    flows[code] = Flow.STOP
                    continue
                example = self.bytes_at(index)
                flows[code] = _flow(example)
                # Operands decide too: MOV to and from segments has one code for all registers.
                sensitive[code] = has_sensitive_opcode(example)
        return flows, sensitive


FILL_BYTE = int(iced_x86.Code.DECLAREBYTE)
"""The code of each byte with which a linker filled a gap."""
UD0 = bytes.fromhex("0fff")
"""WARN() of Linux 4.12 to 4.15, without the ModRM byte that Intel's processors take along."""
OPAQUE_BYTE = int(iced_x86.Code.DECLAREWORD)
"""The code of each byte of code that is not for 32 bits: what it holds is kept as it is."""
_BYTEWISE = {FILL_BYTE: Shape.LINK_FILL, OPAQUE_BYTE: Shape.OPAQUE}
_SHORT_UD0 = int(iced_x86.Code.UD0)
_GIVEN = {UD0: _SHORT_UD0, XEN_PREFIX: int(iced_x86.Code.UD2)}
"""Instructions that are known by standing between two known boundaries: bytes and code."""
_NO_ENCODING = (FILL_BYTE, OPAQUE_BYTE, _SHORT_UD0)
"""Codes of what the library does not decode: they are given by place."""
SHORT_LEA_LEN = 4
"""Bytes of a lea without displacement, with a prefix: `8d 04 20` is one of the Athlon's nops."""
_IS_PREFIX = np.isin(np.arange(256), list(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"))
_NOP_ENDS = {
    "LEA_R32_M": (0x00,),
    "MOV_RM32_R32": range(0xC0, 0x100, 9),
    "MOV_R32_RM32": range(0xC0, 0x100, 9),
}
"""Last bytes of a lea with displacement 0 and of a mov from a register to itself."""
_LOW_BYTES = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(16)], np.uint64)
"""Masks of a number's first n bytes, of eight at most."""
_BATCH = 256
"""Instructions decoded at a time; what lies after a byte that is not one is decoded again."""
_CODE_NAMES: dict[int, str] = {
    value: name for name, value in vars(iced_x86.Code).items() if isinstance(value, int)
}


_IS_DISPUTED = np.zeros(1 << 16, np.bool_)
_IS_DISPUTED[[code for code, name in _CODE_NAMES.items() if name.startswith("UD0_")]] = True
"""Processors and decoders disagree whether UD0 has a ModRM byte: where nothing says how long it is,
it is not an instruction."""


def decode(
    code: bytes,
    va: int,
    splits: Sequence[int] = (),
    data: Sequence[tuple[int, int]] = (),
    ends: Sequence[int] = (),
    opaque: Sequence[tuple[int, int]] = (),
) -> InstructionStream:
    """Decode `code`, linked at `va`, from end to end.

    `splits` are addresses at which an instruction is known to begin (symbols): decoding starts
    anew there, so that no instruction runs over one; `0f ff` between two of them is an instruction.
    `data` are ranges of addresses known to hold none: each byte of them decodes as nothing. `ends`
    are addresses at which functions end: what a linker put after one is not an instruction either.
    The bytes of `opaque` ranges are instructions of one byte each that control does not leave.
    """
    splits = [at for at in splits if not any(low < at < high for low, high in opaque)]
    prefixes = emulated_prefixes(code)
    splits += [va + at + edge for at in prefixes for edge in (0, len(XEN_PREFIX))]
    stream = _decode(code, va, splits, data, opaque)
    after = stream.starts.astype(np.int64) + stream.lens
    last = after[np.isin(stream.flows, (Flow.STOP, Flow.JUMP, Flow.CALL))]
    last = np.unique(np.concatenate([last, np.array(ends, np.int64)]))
    core = stream.starts[stream.shapes == Shape.CODE].astype(np.int64)
    labels = np.unique(np.array(splits, np.int64))
    return _with_fills(stream, link_fills(code, va, labels, last, core))


def _with_fills(stream: InstructionStream, fills: list[tuple[int, int]]) -> InstructionStream:
    """The stream with each byte of `fills` for itself; their ends are instructions' ends."""
    starts = stream.starts.astype(np.int64)
    low = np.searchsorted(starts, [start for start, _ in fills])
    high = np.searchsorted(starts, [end for _, end in fills])
    whole = [
        (start, end, first, last)
        for (start, end), first, last in zip(fills, low.tolist(), high.tolist(), strict=True)
        if first < len(starts) and starts[first] == start
    ]
    if not whole:
        return stream
    gone = np.zeros(len(starts), np.bool_)
    for _, _, first, last in whole:
        gone[first:last] = True
    single = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end, _, _ in whole])
    new_starts = np.concatenate([starts[~gone], single])
    order = np.argsort(new_starts, kind="stable")
    lens = np.concatenate([stream.lens[~gone], np.ones(len(single), np.uint8)])
    codes = np.concatenate([stream.codes[~gone], np.full(len(single), FILL_BYTE, np.uint16)])
    ordered = new_starts[order].astype(np.uint32)
    return InstructionStream(stream.va, stream.code, ordered, lens[order], codes[order])


def _decode(
    code: bytes,
    va: int,
    splits: Sequence[int],
    data: Sequence[tuple[int, int]],
    opaque: Sequence[tuple[int, int]],
) -> InstructionStream:
    """Decode without a thought of what linkers fill in."""
    bytewise = {**{low: 0 for low, _ in data}, **{low: OPAQUE_BYTE for low, _ in opaque}}
    known = (*splits, *(edge for ends in (*data, *opaque) for edge in ends))
    inner = sorted({s for s in known if va < s < va + len(code)})
    if not bytewise:
        stream = _decode_parts(code, va, [], {})
        # Nearly always instructions begin at all splits, and decoding anew there changes nothing.
        over = np.searchsorted(stream.starts, inner, side="right") - 1
        if np.array_equal(stream.starts[over], inner) and not _has_short_trap(code, va, inner):
            return stream
    return _decode_parts(code, va, inner, bytewise)


def _has_short_trap(code: bytes, va: int, inner: Sequence[int]) -> bool:
    """Whether two neighbours among the edges `inner` have one of `_GIVEN` between them."""
    pairs = pairwise(inner) if any(given in code for given in _GIVEN) else ()
    return any(
        end - at <= len(XEN_PREFIX) and code[at - va : end - va] in _GIVEN for at, end in pairs
    )


def _decode_parts(
    code: bytes, va: int, inner: Sequence[int], bytewise: Mapping[int, int]
) -> InstructionStream:
    """Decode what lies between the edges `inner`, each part for itself.

    Of the parts that begin at the addresses of `bytewise` each byte has the code given there.
    """
    lens, codes = array("B"), array("H")
    for start, end in pairwise([va, *inner, va + len(code)]):
        part = code[start - va : end - va]
        done = 0
        if start in bytewise:
            lens.extend([1] * len(part))
            codes.extend([bytewise[start]] * len(part))
            continue
        if part in _GIVEN:
            lens.append(len(part))
            codes.append(_GIVEN[part])
            continue
        decoder = iced_x86.Decoder(32, part)
        while done < len(part):
            decoder.position = done
            found = list(islice(decoder, _BATCH))
            sizes: list[int] = [each.len for each in found]
            kinds: list[int] = [each.code for each in found]
            if 0 in kinds:
                first = kinds.index(0)
                sizes[first:], kinds[first:] = [1], [0]
            lens.fromlist(sizes)
            codes.fromlist(kinds)
            done += sum(sizes)
    len_array = np.frombuffer(lens, dtype=np.uint8) if lens else np.zeros(0, np.uint8)
    code_array = np.frombuffer(codes, dtype=np.uint16) if codes else np.zeros(0, np.uint16)
    code_array[_IS_DISPUTED[code_array]] = 0
    ends = np.cumsum(len_array, dtype=np.int64) + va
    return InstructionStream(va, code, (ends - len_array).astype(np.uint32), len_array, code_array)


def _flow(code: bytes) -> Flow:
    instruction = iced_x86.Decoder(32, code).decode()
    control = iced_x86.FlowControl
    if instruction.op_count and instruction.op0_kind == iced_x86.OpKind.NEAR_BRANCH16:
        return Flow.NARROW
    match instruction.flow_control:
        case control.CALL if instruction.is_call_near:
            return Flow.CALL
        case control.UNCONDITIONAL_BRANCH if instruction.is_jmp_short_or_near:
            return Flow.JUMP
        case control.CONDITIONAL_BRANCH:
            short = instruction.is_jcc_short_or_near
            return Flow.CONDITION if short else Flow.LOOP
        case control.UNCONDITIONAL_BRANCH | control.INDIRECT_BRANCH | control.RETURN:
            return Flow.STOP
        case control.EXCEPTION:
            return Flow.STOP
    return Flow.NEXT


@lru_cache(maxsize=4096)
def is_nop(code: bytes) -> bool:
    """Whether the instruction changes nothing and is one that assemblers pad with."""
    instruction = iced_x86.Decoder(32, code).decode()
    mnemonic, register = iced_x86.Mnemonic, iced_x86.Register
    if instruction.mnemonic == mnemonic.NOP:
        return True
    if instruction.mnemonic == mnemonic.MOV:
        return bool(
            instruction.op1_kind == iced_x86.OpKind.REGISTER
            and instruction.op0_register == instruction.op1_register
        )
    if instruction.mnemonic != mnemonic.LEA or instruction.memory_displacement:
        return False
    base, index = instruction.memory_base, instruction.memory_index
    if index != register.NONE and instruction.memory_index_scale != 1:
        return False
    return instruction.op0_register in (base, index) and register.NONE in (base, index)


def text_of(code: bytes, va: int) -> str:
    """The instructions in `code` as assembler text, joined by `; `."""
    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.NASM)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    return "; ".join(formatter.format(i) for i in iced_x86.Decoder(32, code, ip=va))
