// SPDX-License-Identifier: MIT
// What becomes of processes that do what a kernel must not suffer by? Each row is a child; its number
// and how it ended (wait(2)) are printed. Without a library: gcc -m32 -nostdlib -static.

typedef unsigned int u32;

enum { EXIT = 1, FORK = 2, WRITE = 4, WAITPID = 7, GETPID = 20, SIGRETURN = 119, MODIFY_LDT = 123 };
enum { YIELD = 158, VM86OLD = 113, IOPL = 110 };

static int system_call(int number, int a, int b, int c)
{
    int result;
    asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static void print(const char *text)
{
    int len = 0;
    while (text[len]) len++;
    system_call(WRITE, 1, (int)text, len);
}

static void print_number(u32 value, const char *after)
{
    char digits[9];
    for (int i = 0; i < 8; i++) digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    digits[8] = 0;
    print(digits);
    print(after);
}

// A signal frame (struct sigcontext of asm/sigcontext.h) that no kernel has made.
static void return_to(u32 cs, u32 ss)
{
    static u32 stack[256];
    u32 *frame = stack + 64;
    frame[2] = frame[3] = 0x7b;            // ES, DS
    frame[7] = (u32)(stack + 200);         // ESP
    frame[14] = 0x12345;                   // EIP
    frame[15] = cs;
    frame[16] = 0x202;
    frame[18] = ss;
    asm volatile("mov %0, %%esp; mov %1, %%eax; int $0x80" ::"r"(frame), "i"(SIGRETURN));
}

static u32 in_segment = 0x1234;

// An LDT with a segment of data at `in_segment`; FS gets its selector.
static int load_from_ldt(u32 entry)
{
    struct { u32 number, base, limit, flags; } row = { entry, (u32)&in_segment, 0xfff, 0x51 };
    if (system_call(MODIFY_LDT, 1, (int)&row, sizeof row)) return 99;
    asm volatile("mov %0, %%fs" ::"r"(entry << 3 | 7));
    return 0;
}

static u32 through_fs(void)
{
    u32 value;
    asm volatile("mov %%fs:0, %0" : "=r"(value));
    return value;
}

static int with_ldt(u32 entry)
{
    int failed = load_from_ldt(entry);
    if (failed) return failed;
    for (int i = 0; i < 50; i++) {
        system_call(YIELD, 0, 0, 0);
        if (through_fs() != 0x1234) return 98;
    }
    return 20;
}

// Two address spaces with an LDT each, in turn.
static int two_with_ldt(void)
{
    int status = 0, pid = system_call(FORK, 0, 0, 0);
    in_segment = 0x1234;
    int mine = with_ldt(pid ? 1 : 700);
    if (!pid) return mine;
    system_call(WAITPID, pid, (int)&status, 0);
    return status == 20 << 8 ? mine : 97;
}

static int floating_point(void)
{
    float product;
    asm volatile("fld1; fldpi; fmulp; fstps %0" : "=m"(product));
    return product > 3.14f && product < 3.15f ? 1 : 2;
}

static int flags(void)
{
    u32 value;
    asm volatile("pushf; pop %0" : "=r"(value));
    return (int)(value >> 9 & 1) + 40;
}

static void store(u32 address) { *(volatile u32 *)address = 1; }
static void load(u32 address) { (void)*(volatile u32 *)address; }

static int child(int number)
{
    static char vm86[256];
    switch (number) {
    case 0: return 7;
    case 1: return_to(0xfff3, 0x7b); break;
    case 2: return_to(0x73, 0xfff3); break;
    case 3: return_to(0x61, 0x69); break;
    case 4: store(0xc00c8000); break;
    case 5: load(0xc0400000); break;
    case 6: load(0xffd00000); break;
    case 7: asm volatile("ud2"); break;
    case 8: asm volatile("int3"); break;
    case 9: asm volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx"); break;
    case 10: asm volatile("int $0x81"); break;
    case 11: asm volatile("cli"); break;
    case 12: asm volatile("hlt"); break;
    case 13: asm volatile("int $0x82" ::"a"(18)); break;
    case 14: asm volatile("inb $0x60, %%al" ::: "eax"); break;
    case 15: asm volatile("syscall" ::"a"(1), "b"(9)); break;
    case 16: asm volatile("push %%fs; mov $0xe021, %%eax; mov %%eax, %%fs; pop %%fs" ::: "eax"); break;
    case 17: asm volatile("pushf; orl $0x100, (%%esp); popf; nop; nop" ::: "memory"); break;
    case 18: return floating_point();
    case 19: return flags();
    case 20: return with_ldt(0);
    case 21: return two_with_ldt();
    case 22: system_call(IOPL, 3, 0, 0); asm volatile("cli"); break;
    case 23: system_call(VM86OLD, (int)vm86, 0, 0); return 60;
    }
    return 42;
}

void _start(void)
{
    for (int i = 0; i < 24; i++) {
        int status = 0, pid = system_call(FORK, 0, 0, 0);
        if (!pid) system_call(EXIT, child(i), 0, 0);
        system_call(WAITPID, pid, (int)&status, 0);
        print_number((u32)i, " ");
        print_number((u32)status, "\n");
    }
    system_call(EXIT, 0, 0, 0);
}
