# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the CPU tells about itself: CPUID, RDTSC, RDPMC, MSRs, and instructions it may not have.
# Whatever legitimately differs between machines is reduced to yes, no or "survived".

SECTION(.text)

# Keeps EDX of CPUID leaf 1 in cpu_features (0 without CPUID). Clobbers all but ESP.
FUNC(observe_cpuid)
    xor esi, esi
    xor edi, edi
    cmp dword ptr [has_cpuid], 0
    je .Lwithout_cpuid
    xor eax, eax
    cpuid
    mov [cpuid_highest], eax
    or edi, ebx
    mov eax, 1
    cpuid
    mov [cpu_features], edx
    mov [cpu_features_ecx], ecx
    mov esi, edx
    and esi, 1
.Lwithout_cpuid:
    xor eax, eax
    test edi, edi
    setnz al
    xor ecx, ecx
    cmp dword ptr [cpuid_highest], 1
    setae cl
    REPORT("cpuid: leaf 0 has a vendor: %y, leaf 1 exists: %y, fpu: %y", eax, ecx, esi)
    cmp dword ptr [has_cpuid], 0
    je .Lno_extended
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb .Lno_extended
    mov eax, 0x80000001
    cpuid
    mov [cpu_extended], edx
.Lno_extended:
    cmp dword ptr [cpuid_highest], 7
    jb .Lno_leaf_seven
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov [cpu_structured], ebx
.Lno_leaf_seven:
    ret
END(observe_cpuid)

# MSRs: one that keeps its value, one that no CPU has. Emulators are lenient about the latter, so
# that only survival is reported.
FUNC(observe_msr)
    test dword ptr [cpu_features], 0x20
    jz .Lno_msr
    test dword ptr [cpu_features], 0x800
    jz .Lunknown_msr
    mov ecx, 0x174
    mov eax, KERNEL_CS
    xor edx, edx
    EX_NEXT wrmsr
    EX_NEXT rdmsr
    cmp eax, KERNEL_CS
    jne .Lmsr_lost
.Lunknown_msr:
    mov ecx, 0xdeadbeef
    xor eax, eax
    xor edx, edx
    EX_NEXT rdmsr
    mov ecx, 0xdeadbeef
    EX_NEXT wrmsr
.Lno_msr:
    REPORT("rdmsr wrmsr: survived")
    ret
.Lmsr_lost:
    REPORT("PANIC: an MSR did not keep its value")
    jmp machine_halt
END(observe_msr)

# Time only goes forward.
FUNC(observe_time)
    mov ebx, 1
    test dword ptr [cpu_features], 0x10
    jz .Lno_tsc
    rdtsc
    mov esi, eax
    mov edi, edx
    mov ecx, 20
.Lagain:
    rdtsc
    cmp edi, edx
    ja .Lbackwards
    jb .Lforwards
    cmp esi, eax
    ja .Lbackwards
.Lforwards:
    mov esi, eax
    mov edi, edx
    loop .Lagain
.Lno_tsc:
    REPORT("rdtsc: never goes back: %y", ebx)
    xor ecx, ecx
    EX_NEXT rdpmc
    REPORT("rdpmc: survived")
    bt dword ptr [cpu_extended], 27
    jnc .Lno_rdtscp
    rdtscp
.Lno_rdtscp:
    REPORT("rdtscp: survived")
    ret
.Lbackwards:
    xor ebx, ebx
    jmp .Lno_tsc
END(observe_time)

# Instructions of later CPUs, each where its CPUID bit is set, and those that must not work here.
FUNC(observe_optional)
    mov eax, NO_FAULT
    EX_NEXT rsm
    REPORT("rsm: vector %x", eax)
    # Without EFER.SCE a SYSRET is not there, on whichever CPU.
    mov eax, NO_FAULT
    EX_NEXT sysret
    REPORT("sysret: vector %x", eax)

    bt dword ptr [cpu_features_ecx], 26
    jnc .Lno_xsave
    mov eax, cr4
    or eax, 0x40000
    mov cr4, eax
    xor ecx, ecx
    xgetbv
    EX_NEXT xsetbv
    mov eax, cr4
    and eax, 0xfffbffff
    mov cr4, eax
.Lno_xsave:
    REPORT("xgetbv xsetbv: survived")

    bt dword ptr [cpu_features_ecx], 3
    jnc .Lno_monitor
    mov eax, jiffies
    xor ecx, ecx
    xor edx, edx
    EX_NEXT monitor
    xor eax, eax
    xor ecx, ecx
    cli
    sti
    EX_NEXT mwait
.Lno_monitor:
    REPORT("monitor mwait: survived")

    bt dword ptr [cpu_structured], 20
    jnc .Lno_smap
    EX_NEXT stac
    EX_NEXT clac
.Lno_smap:
    REPORT("stac clac: survived")

    bt dword ptr [cpu_structured], 10
    jnc .Lno_invpcid
    mov eax, 2
    EX_NEXT invpcid eax, [invpcid_descriptor]
.Lno_invpcid:
    REPORT("invpcid: survived")

    bt dword ptr [cpu_features], 19
    jnc .Lno_clflush
    clflush [jiffies]
.Lno_clflush:
    REPORT("clflush: survived")
    ret
END(observe_optional)

SECTION(.data)

OBJECT(invpcid_descriptor, 16)
    .quad 0, 0
END(invpcid_descriptor)

SECTION(.bss)

OBJECT(cpu_features, 4)
    .skip 4
END(cpu_features)

OBJECT(cpu_features_ecx, 4)
    .skip 4
END(cpu_features_ecx)

OBJECT(cpu_extended, 4)
    .skip 4
END(cpu_extended)

OBJECT(cpu_structured, 4)
    .skip 4
END(cpu_structured)

OBJECT(cpuid_highest, 4)
    .skip 4
END(cpuid_highest)
