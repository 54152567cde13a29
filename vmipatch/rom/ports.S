# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Port input and output: the instructions, in every flavour. All preserve EFLAGS.

# In: dx = port. Out: eax, ax or al = value; the rest of eax stays.
BODY(INL, native)
    in eax, dx
    ret

BODY(INW, native)
    in ax, dx
    ret

BODY(INB, native)
    in al, dx
    ret

# In: eax, ax or al = value, dx = port.
BODY(OUTL, native)
    out dx, eax
    ret

BODY(OUTW, native)
    out dx, ax
    ret

BODY(OUTB, native)
    out dx, al
    ret

# In: edi = destination in es, dx = port, ecx = count, DF. Out: edi after it, ecx = 0.
BODY(INSL, native)
    rep insd
    ret

BODY(INSW, native)
    rep insw
    ret

BODY(INSB, native)
    rep insb
    ret

# In: esi = source in ds, dx = port, ecx = count, DF. Out: esi after it, ecx = 0.
BODY(OUTSL, native)
    rep outsd
    ret

BODY(OUTSW, native)
    rep outsw
    ret

BODY(OUTSB, native)
    rep outsb
    ret
