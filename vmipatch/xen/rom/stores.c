/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Which store did Xen refuse, and what does it mean?
 *
 * A store to a page table faults if Xen does not perform it as it stands. The instruction is decoded
 * and its value written the way Xen takes it. The address is that of the fault: of ModRM only the
 * length counts. Encodings: Intel SDM volume 2, chapter 2 and the opcode maps of appendix A.
 */

#include "rom.h"

#define PREFIX_OPERAND_SIZE 0x66
#define MAX_PREFIXES 14            /* of an instruction of at most 15 bytes */
#define FLAG_DF 0x400u
#define FLAG_PF 0x4u
#define LOGIC_FLAGS 0x8c5u         /* CF, PF, ZF, SF, OF */

/* ES, CS, SS, DS: flat, so nothing that changes what is stored. */
static int is_flat_segment(u8 byte) { return (byte & 0xe7) == 0x26; }

/* Bytes of ModRM, SIB and displacement of a memory operand; 0 if it is a register. */
static u32 operand_len(const u8 *modrm)
{
    u32 mod = modrm[0] >> 6, rm = modrm[0] & 7, len = 1;
    if (mod == 3) return 0;
    if (rm == 4) {
        len++;
        if (mod == 0 && (modrm[1] & 7) == 5) len += 4;
    } else if (mod == 0 && rm == 5) {
        len += 4;
    }
    return len + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

static u32 read_immediate(const u8 *at, u32 width)
{
    u32 value = 0;
    for (u32 i = 0; i < width; i++) value |= (u32)at[i] << (8 * i);
    return value;
}

/* What follows the operand of c6, c7 and 80 to 83, and what ModRM makes of them. Its bytes. */
static u32 decode_immediate(struct store *store, u8 opcode, const u8 *at)
{
    u32 len = opcode == 0x83 ? 1 : store->width;
    store->immediate = read_immediate(at, len);
    if (opcode == 0x83) store->immediate = (u32)(s8)store->immediate;
    if ((opcode & 0xfe) == 0xc6) {
        if (store->reg) store->kind = STORE_NONE;
    } else {
        store->kind = store->reg == 1 ? STORE_OR : store->reg == 4 ? STORE_AND : STORE_NONE;
    }
    store->reg = NO_REGISTER;
    return len;
}

/* The store at `code`; its kind is STORE_NONE if it is not one that is known here. */
struct store decode_store(const u8 *code)
{
    struct store store = { .width = 4 };
    const u8 *at = code;
    u32 operand, own_segment = 0, locked = 0, repne = 0;
    for (u32 i = 0; i < MAX_PREFIXES; i++, at++) {
        if (*at == PREFIX_OPERAND_SIZE) store.width = 2;
        else if (*at == 0xf3) store.repeated = 1;
        else if (*at == 0x64 || *at == 0x65) own_segment = 1;   /* FS, GS: not flat */
        else if (*at == 0xf0) locked = 1;
        else if (*at == 0xf2) repne = 1;
        else if (!is_flat_segment(*at)) break;
    }
    u8 opcode = *at++;
    if (opcode == 0x0f) {
        if (*at++ != 0xc7 || (*at & 0x38) != 0x08) return store;
        store.kind = STORE_COMPARE;            /* cmpxchg8b m64 */
        store.width = 8;
    } else {
        if (!(opcode & 1)) store.width = 1;
        switch (opcode & 0xfe) {
        case 0x08: store.kind = STORE_OR; break;           /* or r/m, r */
        case 0x20: store.kind = STORE_AND; break;          /* and r/m, r */
        case 0x80: store.kind = STORE_IMMEDIATE; break;    /* of ModRM: or, and, ... r/m, imm */
        case 0x88: store.kind = STORE_REGISTER; break;     /* mov r/m, r */
        case 0x86: store.kind = STORE_EXCHANGE; break;     /* xchg r/m, r */
        case 0xc6: store.kind = STORE_IMMEDIATE; break;    /* mov r/m, imm */
        case 0xaa: store.kind = STORE_STRING; break;       /* stos */
        case 0xa4: store.kind = STORE_MOVE; break;         /* movs */
        case 0xa2: store.kind = STORE_REGISTER; break;     /* mov moffs, eax */
        case 0x82: if (opcode == 0x83) { store.kind = STORE_IMMEDIATE; break; } return store;
        default: return store;
        }
    }
    if ((opcode & 0xfe) == 0xa2) {
        at += 4;
    } else if (store.kind != STORE_STRING && store.kind != STORE_MOVE) {
        store.reg = (*at >> 3) & 7;
        operand = operand_len(at);
        at += operand;
        if (store.kind == STORE_IMMEDIATE) at += decode_immediate(&store, opcode, at);
        if (!operand) store.kind = STORE_NONE;
    }
    if (store.kind == STORE_MOVE && own_segment) store.kind = STORE_NONE;
    if (repne && (store.kind == STORE_MOVE || store.kind == STORE_STRING)) store.kind = STORE_NONE;
    if (locked && store.kind <= STORE_MOVE && store.kind != STORE_EXCHANGE) store.kind = STORE_NONE;
    store.len = (u8)(at - code);
    return store;
}

/* A general register as ModRM numbers it; of one byte, AH to BH are those from 4 on. */
static u32 *register_of(struct frame *frame, u32 reg) { return &frame->edi + (7 - reg); }

static u32 get_register(struct frame *frame, u32 reg, u32 width)
{
    return width == 1 && reg >= 4 ? *register_of(frame, reg - 4) >> 8 : *register_of(frame, reg);
}

static void set_register(struct frame *frame, u32 reg, u32 width, u32 value)
{
    u32 low = width == 1 && reg >= 4 ? 8 : 0, mask = width == 4 ? ~0u : ((1u << (8 * width)) - 1) << low;
    u32 *whole = register_of(frame, width == 1 ? reg & 3 : reg);
    *whole = (*whole & ~mask) | ((value << low) & mask);
}

static int is_descriptor(u32 va) { return type_of(frame_of(va)) == DESCRIPTORS; }
static u64 value_at(u32 va) { return is_descriptor(va) ? descriptor_at(va) : *(const u64 *)va; }
static int write_whole(u32 va, u64 value)
{
    return is_descriptor(va) ? store_descriptor(va, value) : store_entry(va, value);
}

/* The entry around `va` with `width` bytes of it replaced. */
static int write_part(u32 va, u64 value, u32 width)
{
    u32 bit = (va & 7) * 8;
    u64 mask = ((1ull << (8 * width)) - 1) << bit;
    return write_whole(va & ~7u, (value_at(va & ~7u) & ~mask) | ((value << bit) & mask));
}

/* AND or OR, and the flags of it: those of the operand at its width. */
static void combine(struct frame *frame, struct store *store, u32 va)
{
    u32 up = 32 - 8 * store->width, flags;
    u32 old = (u32)(value_at(va & ~7u) >> ((va & 7) * 8)) << up, operand = store->immediate;
    if (store->reg != NO_REGISTER) operand = get_register(frame, store->reg, store->width);
    operand <<= up;
    if (store->kind == STORE_AND) asm("andl %2, %0; pushfl; popl %1" : "+r"(old), "=r"(flags) : "r"(operand) : "cc");
    else asm("orl %2, %0; pushfl; popl %1" : "+r"(old), "=r"(flags) : "r"(operand) : "cc");
    u32 low = old >> up & 0xff;
    flags &= ~FLAG_PF;
    if (!__builtin_parity(low)) flags |= FLAG_PF;
    frame->eflags = (frame->eflags & ~LOGIC_FLAGS) | (flags & LOGIC_FLAGS);
    write_part(va, old >> up, store->width);
}

static void compare_and_exchange(struct frame *frame, u32 va)
{
    u64 old = value_at(va), expected = ((u64)frame->edx << 32) | frame->eax;
    if (old == expected) {
        write_whole(va, ((u64)frame->ecx << 32) | frame->ebx);
        frame->eflags |= FLAG_ZF;
    } else {
        frame->edx = (u32)(old >> 32);
        frame->eax = (u32)old;
        frame->eflags &= ~FLAG_ZF;
    }
}

/* One element of STOS or MOVS; 1 if the instruction goes on. */
static int string_step(struct frame *frame, struct store *store, u32 va)
{
    u32 step = frame->eflags & FLAG_DF ? -(u32)store->width : store->width, value = frame->eax;
    if (store->repeated && !frame->ecx) return 0;
    if (store->kind == STORE_MOVE) {
        value = read_immediate((const u8 *)frame->esi, store->width);
        frame->esi += step;
    }
    write_part(va, value, store->width);
    frame->edi += step;
    return store->repeated && --frame->ecx;
}

/* Does what the store at the frame's EIP means, to the entry at `va`. 0 if it is not known. */
int emulate_store(struct frame *frame, u32 va)
{
    struct store store = decode_store((const u8 *)frame->eip);
    u32 old;
    if (store.kind == STORE_NONE || (va & 7) + store.width > 8) return 0;
    switch (store.kind) {
    case STORE_REGISTER: write_part(va, get_register(frame, store.reg, store.width), store.width); break;
    case STORE_IMMEDIATE: write_part(va, store.immediate, store.width); break;
    case STORE_EXCHANGE:
        old = (u32)(value_at(va & ~7u) >> ((va & 7) * 8));
        write_part(va, get_register(frame, store.reg, store.width), store.width);
        set_register(frame, store.reg, store.width, old);
        break;
    case STORE_COMPARE: compare_and_exchange(frame, va); break;
    case STORE_AND:
    case STORE_OR: combine(frame, &store, va); break;
    default:
        if (string_step(frame, &store, va)) return 1;
    }
    frame->eip += store.len;
    return 1;
}
