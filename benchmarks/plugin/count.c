/* SPDX-License-Identifier: MIT */
/*
 * How many instructions does a guest execute, and how many of them in given address ranges?
 *
 * A plugin for QEMU's TCG. Arguments:
 *   ranges=FILE  lines `START END` (hexadecimal, half-open, ascending, without overlap)
 *   begin=ADDR   the totals begin with the first execution of this address: firmware and boot
 *                loader do not count
 *   out=FILE     written when QEMU ends: `begun N`, `total N`, `repeats N`, then one decimal
 *                number for each range, in the order of FILE
 *
 * Addresses are linear. The count of a range is the number of instructions that began in it, a
 * faulting one each time it is tried. QEMU goes through a repeated string instruction once for each
 * iteration (`rep movs`, and once more to find that it is at its end); a processor counts it as one.
 * Those passes are in `total` and, apart, in `repeats`.
 *
 * Valid for one virtual CPU: the counters are not atomic.
 */

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/*
 * The part of the plugin interface, version 1, that is used here, as QEMU documents it
 * (docs/devel/tcg-plugins.rst, "API"); no package ships the header.
 */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
enum { ADD_U64 = 0, NO_REGISTERS = 0 };

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const qemu_info_t *info, int argc, char **argv);

void qemu_plugin_register_vcpu_tb_trans_cb(
    plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_inline(
    struct qemu_plugin_insn *insn, int operation, void *counter, uint64_t operand);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
    void (*executed)(unsigned int cpu, void *data), int registers, void *data);

struct range {
    uint64_t start, end, executed;
};

static struct range *ranges;
static size_t range_count;
static const char *out_path;

static uint64_t begin_va;
static bool begun;
static uint64_t total, repeats;
static uint64_t total_before, repeats_before;

static void add_one(struct qemu_plugin_insn *insn, uint64_t *counter)
{
    qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, counter, 1);
}

static struct range *range_over(uint64_t va)
{
    size_t low = 0, high = range_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].end <= va)
            low = middle + 1;
        else
            high = middle;
    }
    return low < range_count && ranges[low].start <= va ? &ranges[low] : NULL;
}

/* INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS after F2 or F3 (Intel SDM volume 2, REP). */
static bool is_repeated(const uint8_t *code, size_t length)
{
    bool repeated = false;
    size_t at = 0;
    for (; at < length && memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", code[at], 11); at++)
        repeated |= code[at] == 0xf2 || code[at] == 0xf3;
    if (!repeated || at == length)
        return false;
    uint8_t opcode = code[at];
    return (opcode >= 0x6c && opcode <= 0x6f) || (opcode >= 0xa4 && opcode <= 0xa7)
        || (opcode >= 0xaa && opcode <= 0xaf);
}

static void on_begin(unsigned int cpu, void *data)
{
    (void)cpu, (void)data;
    if (begun)
        return;
    begun = true;
    total_before = total;
    repeats_before = repeats;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint64_t va = qemu_plugin_insn_vaddr(insn);
        struct range *range = range_over(va);
        add_one(insn, &total);
        if (is_repeated(qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn)))
            add_one(insn, &repeats);
        if (range)
            add_one(insn, &range->executed);
        if (va == begin_va)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_begin, NO_REGISTERS, NULL);
    }
}

static void on_end(plugin_id id, void *data)
{
    (void)id, (void)data;
    FILE *out = fopen(out_path, "w");
    if (!out) {
        perror(out_path);
        return;
    }
    fprintf(out, "begun %d\n", begun);
    fprintf(out, "total %" PRIu64 "\n", total - total_before);
    fprintf(out, "repeats %" PRIu64 "\n", repeats - repeats_before);
    for (size_t i = 0; i < range_count; i++)
        fprintf(out, "%" PRIu64 "\n", ranges[i].executed);
    fclose(out);
}

/* Returns whether `path` is as the comment on top says. */
static bool read_ranges(const char *path)
{
    FILE *in = fopen(path, "r");
    if (!in) {
        perror(path);
        return false;
    }
    struct range next = {0};
    uint64_t reached = 0;
    int fields;
    while ((fields = fscanf(in, "%" SCNx64 " %" SCNx64, &next.start, &next.end)) == 2) {
        if (next.start < reached || next.end <= next.start) {
            fprintf(stderr, "%s: the ranges are not ascending at %" PRIx64 "\n", path, next.start);
            fclose(in);
            return false;
        }
        reached = next.end;
        if ((range_count & (range_count + 1)) == 0) {
            ranges = realloc(ranges, 2 * (range_count + 1) * sizeof *ranges);
            if (!ranges)
                abort();
        }
        ranges[range_count++] = next;
    }
    fclose(in);
    if (fields != EOF)
        fprintf(stderr, "%s: a line is not `START END`\n", path);
    return fields == EOF;
}

int qemu_plugin_install(plugin_id id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    const char *ranges_path = NULL;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "ranges=", 7)) {
            ranges_path = argv[i] + 7;
        } else if (!strncmp(argv[i], "begin=", 6)) {
            begin_va = strtoull(argv[i] + 6, NULL, 16);
        } else if (!strncmp(argv[i], "out=", 4)) {
            out_path = strdup(argv[i] + 4);
        } else {
            fprintf(stderr, "count: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (!ranges_path || !out_path) {
        fprintf(stderr, "count: ranges=FILE and out=FILE are needed\n");
        return -1;
    }
    if (!read_ranges(ranges_path))
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
