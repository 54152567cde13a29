# SPDX-License-Identifier: MIT
"""Does the hypervisor keep its half of the contract with the ROM?"""

from __future__ import annotations

import struct

import pytest

from tests.emu.guest import (
    DATA_PA,
    KERNEL_DS,
    STACK_PA,
    TABLES_PA,
    USER_CS,
    USER_DS,
    Gate,
)
from tests.emu.ring1_guest import (
    INIT,
    OPTIONS,
    call_rom,
    entry_words,
    paravirt_of,
    paravirt_rom,
    run_paravirt,
)
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.devices.cmos import EPOCH_NS
from vmipatch.emu.hypervisor.exits import SENSITIVE, ExitKind
from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.emu.report import Ending
from vmipatch.errors import InputNotUnderstood
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.marks import parse_marks
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Hypercall, Shared, Time

C = VmiCall
D = DATA_PA
END = "\n cli\n hlt\n"


def test_init_fixes_the_rom_up_and_fills_the_shared_page() -> None:
    done = run_paravirt(f"sti\n mov eax, 0x90\n mov cr4, eax\n {INIT} {END}")
    assert done.result.ending is Ending.HALTED and paravirt_of(done.machine).is_paravirtual
    shared = done.machine.memory.read(SHARED_PA, PAGE_LEN)
    assert shared[Shared.GDTR : Shared.GDTR + 6] == struct.pack("<HI", 0x2F, TABLES_PA)
    assert struct.unpack_from("<I", shared, Shared.CR4)[0] == 0x90
    assert struct.unpack_from("<I", shared, Shared.TR)[0] == 0x28
    marks = parse_marks(paravirt_rom())
    assert marks is not None and marks.fixup_offs


def test_init_moves_the_rom_to_where_the_guest_sees_it() -> None:
    directory_pa = 0x200000
    source = f"""
        mov dword ptr [{directory_pa}], 0x83
        mov dword ptr [{directory_pa + 0xC00}], 0x83
        mov eax, 0x10
        mov cr4, eax
        mov eax, {directory_pa}
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, {0xC0000000 + ROM_PA + 0x80}
        call eax
        mov dword ptr [{D}], eax
        cli
        hlt
    """
    done = run_paravirt(source)
    assert done.word(0) == 0
    marks = parse_marks(paravirt_rom())
    assert marks is not None
    for off in marks.fixup_offs:
        before = int.from_bytes(paravirt_rom()[off : off + 4], "little")
        assert done.machine.memory.read_u32(ROM_PA + off) == before + 0xC0000000


def test_second_init_is_refused() -> None:
    done = run_paravirt(
        f"{INIT}\n mov eax, {ROM_PA + 0x80}\n call eax\n mov dword ptr [{D}], eax {END}"
    )
    assert done.word(0) == 0xFFFFFFFF


def test_init_hypercall_outside_of_the_rom_is_refused() -> None:
    done = run_paravirt(f"mov eax, 7\n int {Hypercall.INIT}\n mov dword ptr [{D}], eax {END}")
    assert done.word(0) == 0xFFFFFFFF and not paravirt_of(done.machine).is_paravirtual


def test_hypercall_vectors_are_the_kernels_own_before_init() -> None:
    source = f"int {Hypercall.CALL}\n ud2\n handler: mov dword ptr [{D}], 7 {END}"
    assert run_paravirt(source, {Hypercall.CALL: Gate("handler")}).word(0) == 7


def test_hypercall_of_a_process_is_its_own_fault() -> None:
    source = f"""
        {INIT}
        push {USER_DS}
        push 0x128000
        push 0x202
        push {USER_CS}
        mov eax, user
        push eax
        {call_rom(C.IRET)}
    user:
    at: int {Hypercall.CALL}
        ud2
    handler:
        mov eax, {KERNEL_DS}
        mov ds, ax
        pop dword ptr [{D}]
        pop dword ptr [{D + 4}]
        {END}
    """
    done = run_paravirt(source, {13: Gate("handler")}, calls=(C.IRET,))
    assert done.word(0) == Hypercall.CALL * 8 + 2
    assert done.word(1) == done.code.labels["at"]


KEPT = ["eax", "ecx", "edx", "ebx", "ebp", "esi", "edi"]


@pytest.mark.parametrize(
    ("call", "eax", "edx"),
    [
        (C.SET_CR0, 0x80000013 & 0x7FFFFFFF, 0),
        (C.SET_CR2, 0x1234, 0),
        (C.SET_CR3, 0x200000, 0),
        (C.SET_CR4, 0x90, 0),
        (C.SET_DR, 3, 0x77),
        (C.SET_DR, 9, 0x77),
        (C.GET_DR, 9, 0x77),
        (C.SET_IDT, TABLES_PA + 0xB10, 0),
        (C.SET_GDT, TABLES_PA + 0xB00, 0),
        (C.SET_LDT, 0, 0),
        (C.CLTS, 0, 0),
        (C.WBINVD, 0, 0),
        (C.INVAL_PAGE, 0x400000, 0),
    ],
    ids=lambda value: value.name if isinstance(value, VmiCall) else "",
)
def test_call_keeps_registers_and_flags(call: VmiCall, eax: int, edx: int) -> None:
    values = dict(zip(KEPT, (eax, 0x22, edx, 0x44, 0x55, 0x66, 0x77), strict=True))
    loads = "\n".join(f"mov {name}, {value}" for name, value in values.items())
    stores = "\n".join(f"mov dword ptr [{D + 4 * i}], {name}" for i, name in enumerate(KEPT))
    source = f"""
        {INIT}
        {loads}
        push 0xcd7
        popfd
        {call_rom(call)}
        pushfd
        pop dword ptr [{D + 32}]
        cld
        {stores}
        mov dword ptr [{D + 36}], esp
        {END}
    """
    done = run_paravirt(source, calls=(call,))
    assert [done.word(i) for i in range(7)] == list(values.values())
    assert done.word(8) & 0xCD5 == 0xCD7 & 0xCD5
    assert done.word(9) == STACK_PA


def test_control_registers_are_seen_without_an_exit() -> None:
    source = f"""
        {INIT}
        mov eax, 0x200000
        {call_rom(C.SET_CR3)}
        mov eax, 0x5678
        {call_rom(C.SET_CR2)}
        {call_rom(C.GET_CR3)}
        mov dword ptr [{D}], eax
        {call_rom(C.GET_CR2)}
        mov dword ptr [{D + 4}], eax
        {call_rom(C.GET_TR)}
        mov dword ptr [{D + 8}], eax
        {END}
    """
    done = run_paravirt(source, calls=(C.SET_CR3, C.SET_CR2, C.GET_CR3, C.GET_CR2, C.GET_TR))
    assert [done.word(i) for i in range(3)] == [0x200000, 0x5678, 0x28]
    assert done.result.statistics.traps[ExitKind.HYPERCALL_CALL] == 2


REPORT = f"""
handler:
    mov eax, {KERNEL_DS}
    mov ds, ax
    mov dword ptr [{D + 20}], esp
    pop dword ptr [{D}]
    pop dword ptr [{D + 4}]
    mov dword ptr [{D + 8}], ebx
    mov dword ptr [{D + 12}], ecx
    mov eax, dword ptr [{SHARED_PA + Shared.VIRTUAL_IF}]
    mov dword ptr [{D + 16}], eax
    {END}
"""


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
@pytest.mark.parametrize("flags", [0x202, 0x20202], ids=["hardware", "hypercall"])
def test_iret_that_faults_in_the_rom_faults_at_its_site(mode: Mode, flags: int) -> None:
    source = f"""
        {INIT}
        mov ecx, 0x11
        mov ebx, 0x22
        push {USER_DS}
        push 0
        push {flags}
        push 0x333
        push 0x1000
    at: {call_rom(C.IRET).replace("dword ptr cs:[entry_iret]", "{near}")}
        {REPORT}
    """
    near = entry_words(C.IRET).split(".long ")[1]
    done = run_paravirt(source.replace("{near}", near), {13: Gate("handler")}, mode)
    expected = 0 if flags & 0x20000 else 0x330
    assert done.word(0) == expected
    assert done.word(1) == done.code.labels["at"]
    assert (done.word(2), done.word(3)) == (0x22, 0x11)
    assert done.word(4) == 0, "virtual IF is off in the handler"
    assert done.word(5) == STACK_PA - 20 - 16, "the frame of the fault lies on the bad one"


def test_call_that_faults_faults_at_its_site() -> None:
    near = entry_words(C.SET_TR).split(".long ")[1]
    source = f"{INIT}\n mov ebx, 0x22\n mov ecx, 0x11\n mov eax, 0x10\n at: call {near}\n {REPORT}"
    done = run_paravirt(source, {13: Gate("handler")})
    assert (done.word(0), done.word(1)) == (0x10, done.code.labels["at"])
    assert (done.word(2), done.word(3)) == (0x22, 0x11)
    assert done.word(5) == STACK_PA - 16


@pytest.mark.parametrize("fixture", ["pushf", "popf", "str", "sgdt"])
def test_fallback_hlt_is_the_instruction_that_stood_there(fixture: str) -> None:
    bodies = {
        "pushf": (0x9C, f"patched: pushfd\n pop dword ptr [{D}]", 0x202),
        "popf": (
            0x9D,
            f"push 0x2\n patched: popfd\n mov eax, dword ptr [{SHARED_PA}]\n"
            f"mov dword ptr [{D}], eax",
            0,
        ),
        "str": (0x0F, f"mov eax, 0\n patched: str eax\n mov dword ptr [{D}], eax", 0x28),
        "sgdt": (0x0F, f"patched: .byte 0x0f, 0x01, 0x05\n .long {D}", (TABLES_PA << 16 | 0x2F)),
    }
    first, body, value = bodies[fixture]
    source = f"""
        {INIT}
        {call_rom(C.ENABLE_INTERRUPTS)}
        mov eax, table
        mov edx, 1
        {call_rom(C.SET_FALLBACK)}
        mov byte ptr [patched], 0xf4
        push 2
        popfd
        {body}
        {call_rom(C.SHUTDOWN)}
        .p2align 2
    table: .long patched
        .long {first}
    """
    done = run_paravirt(source, calls=(C.ENABLE_INTERRUPTS, C.SET_FALLBACK, C.SHUTDOWN))
    assert done.result.ending is Ending.HALTED
    assert done.word(0) & ~0xD5 == value & 0xFFFFFFFF & ~0xD5
    assert done.result.statistics.traps[ExitKind.FALLBACK] == 1


def test_audit_names_what_is_no_call_and_passes_the_roms_own() -> None:
    source = f"""
        {INIT}
    pushes: .byte 0x3e, 0x9c
        pop eax
    stores: str ax
    masks: cli
        {call_rom(C.RDTSC)}
        {call_rom(C.SHUTDOWN)}
    """
    calls = (C.RDTSC, C.SHUTDOWN)
    audit, measured = (
        run_paravirt(source, mode=mode, calls=calls) for mode in (Mode.AUDIT, Mode.PARAVIRT)
    )
    labels = audit.code.labels
    found = [
        (f.va, f.code.hex(), f.is_unprivileged, f.count)
        for f in paravirt_of(audit.machine).findings()
    ]
    assert found == [
        (labels["pushes"], "3e9c", True, 1),
        (labels["stores"], "660f00c8", True, 1),
        (labels["masks"], "fa", False, 1),
    ]
    assert audit.result.statistics.traps[ExitKind.ROM] == 2
    assert [f.va for f in paravirt_of(measured.machine).findings()] == [labels["masks"]]
    assert measured.result.statistics.traps[ExitKind.ROM] == 0


def test_own_code_of_the_kernel_is_passed_like_the_roms() -> None:
    source = f"""
        {INIT}
        mov eax, thunk
        mov edx, after
        {call_rom(C.SET_RUNTIME)}
    thunk:
        pushfd
        pop dword ptr [{D}]
    after:
        {call_rom(C.SHUTDOWN)}
    """
    done = run_paravirt(source, mode=Mode.AUDIT, calls=(C.SET_RUNTIME, C.SHUTDOWN))
    assert done.word(0) & 0x3200 == 0x200, "the real flags"
    assert not paravirt_of(done.machine).findings()


def test_clock_read_in_the_rom_goes_with_the_machines() -> None:
    source = f"""
        {INIT}
        {call_rom(C.RDTSC)}
        mov dword ptr [{D}], eax
        rdtsc
        mov dword ptr [{D + 4}], eax
        {call_rom(C.RDTSC)}
        mov dword ptr [{D + 8}], eax
        {END}
    """
    done = run_paravirt(source, calls=(C.RDTSC,))
    first, second, third = (done.word(i) for i in range(3))
    assert first < second < third < second + 5_000
    assert third < done.result.now_ns


def test_guest_that_leaves_paging_is_trapped_again() -> None:
    directory_pa = 0x200000
    source = f"""
        mov dword ptr [{directory_pa}], 0x83
        mov eax, 0x10
        mov cr4, eax
        mov eax, {directory_pa}
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        {INIT}
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
        pushfd
        pop dword ptr [{D}]
        mov eax, {ROM_PA + 0x80}
        call eax
        mov dword ptr [{D + 4}], eax
        {END}
    """
    done = run_paravirt(source)
    assert done.word(0) & 0x200 == 0, "pushf is intercepted: virtual IF is off"
    assert done.word(1) == 0, "and the next kernel may become paravirtual"
    assert done.result.statistics.traps[ExitKind.HYPERCALL_INIT] == 2


def test_rom_of_somebody_else_is_refused() -> None:
    for image in (b"\x55\xaa" + bytes(1022), bytes(16), paravirt_rom() + bytes(0x4000)):
        with pytest.raises(InputNotUnderstood):
            build_machine(MachineSpec(Mode.PARAVIRT, OPTIONS, image))


def test_sensitive_exits_are_a_subset_of_all() -> None:
    done = run_paravirt(f"cli\n {INIT} {call_rom(C.SHUTDOWN)}", calls=(C.SHUTDOWN,))
    traps = done.result.statistics.traps
    assert 0 < sum(traps[kind] for kind in SENSITIVE) < traps.total()


def test_time_page_holds_nothing_of_the_host() -> None:
    done = run_paravirt(f"{INIT} {END}")
    page = done.machine.memory.read(TIME_PA, PAGE_LEN)
    epoch_ns = int.from_bytes(page[Time.EPOCH : Time.EPOCH + 8], "little")
    assert epoch_ns == EPOCH_NS
    assert not any(page[Time.EPOCH + 8 :])
