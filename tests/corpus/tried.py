# SPDX-License-Identifier: MIT
"""Which kinds of kernels were met once, in kernels that no pinned archive has? And what keeps them?

Each kind has a synthetic sample, built in a test: the kernel itself is not needed to repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TriedKind:
    """A way in which kernels differ, where it was met, and the test that holds a sample of it."""

    what: str
    seen: str
    sample: str
    """File and function, as pytest names them."""


KINDS: tuple[TriedKind, ...] = (
    TriedKind(
        "boot code of other forms: linked by lld, without total_len, up to 2.6.36",
        "2.6.21 to 6.5",
        "tests/image/repack/test_repack.py::test_moved_boot_code_is_what_linking_it_there_gives",
    ),
    TriedKind(
        "relocatable boot code that rounds its address up and compares it with nothing",
        "2.6.32 of CentOS 6; in the sources from 2.6.30 to 3.12",
        "tests/image/repack/test_repack.py::test_moved_boot_code_is_what_linking_it_there_gives",
    ),
    TriedKind(
        "tables for a dynamic linker in the boot code's data",
        "4.8.0-rc6 and two of 4.9.6, own builds",
        "tests/image/repack/test_repack.py::test_tables_for_a_dynamic_linker_keep_their_words",
    ),
    TriedKind(
        "bzImage without a relocation list",
        "3.2 to 6.6",
        "tests/cli/test_bzimage.py"
        "::test_bzimage_without_relocation_list_is_refused_for_that_and_scanned",
    ),
    TriedKind(
        "a relocation list with the words of notes (Xen)",
        "6.5 with PAE, a distribution's 2.6.32 for i686",
        "tests/image/test_twin.py::test_list_has_all_words_of_notes_or_none",
    ),
    TriedKind(
        "emptied .rel sections that link to no symbols",
        "Debian 6 and 7, CentOS 6, Ubuntu 10.04",
        "tests/rewrite/test_recovered.py"
        "::test_relocation_sections_without_bytes_and_symbols_stop_nobody",
    ),
    TriedKind(
        "relative alternatives without a replacement",
        "3.2 to 4.17",
        "tests/tables/samples_old_code.py::alternatives_relative_without_a_replacement",
    ),
    TriedKind(
        "alternatives of 14 bytes",
        "6.5, 6.6, 7.2",
        "tests/tables/samples_old_code.py::alternatives_with_flags",
    ),
    TriedKind(
        "int3 after the last static call of an object",
        "5.10",
        "tests/tables/samples_old_code.py::static_calls_without_signature",
    ),
    TriedKind(
        "kallsyms with names first, and by distances",
        "6.5, 7.2",
        "tests/recover/test_recover.py::test_functions_come_back_from_kallsyms",
    ),
    TriedKind(
        "vmlinux without relocations, its list in the bzImage",
        "6.12, 7.2",
        "tests/recover/test_complete.py::test_rewritten_kernel_is_proven_and_restored",
    ),
    TriedKind(
        "emptied entries before the sorted ones of __mcount_loc",
        "7.2",
        "tests/tables/samples_odd.py::mcount_with_emptied_entries",
    ),
    TriedKind(
        "operands that boot overwrites (runtime_shift, runtime_ptr)",
        "6.12, 7.2",
        "tests/tables/samples_odd.py::runtime_constants",
    ),
    TriedKind(
        "relocations of a sorted table are stale",
        "6.12, 7.2",
        "tests/rewrite/test_spoilt_tables.py"
        "::test_words_of_a_sorted_table_are_believed_and_its_relocations_are_not",
    ),
    TriedKind(
        "zeros at the end of __param",
        "2.6.27 to 2.6.34",
        "tests/tables/test_layouts.py::test_zeros_at_the_end_of_a_section_are_no_entries",
    ),
    TriedKind(
        "entry 0, 0 of __ex_table",
        "CentOS 6",
        "tests/tables/samples_odd.py::exception_of_nothing",
    ),
    TriedKind(
        "exception tables of modules whose handlers the kernel has",
        "modules of 5.10",
        "tests/tables/test_modules.py::test_handlers_from_the_kernel_make_three_words_of_an_entry",
    ),
    TriedKind(
        "jumps of alternatives that only their copies execute",
        "3.16: a distribution's for i586, two own builds",
        "tests/rewrite/test_copied_jumps.py::test_copied_jump_of_a_kernel_alone_has_its_target",
    ),
    TriedKind(
        "an alternative at a lock prefix",
        "3.13",
        "tests/tables/samples_odd.py::lock_of_an_alternative",
    ),
    TriedKind(
        "a function with the name of a table",
        "GNU Mach",
        "tests/tables/test_layouts.py::test_what_else_has_the_name_of_a_table_is_none",
    ),
    TriedKind(
        "warnings as ud0 of two bytes",
        "4.12 to 4.15",
        "tests/rewrite/test_gaps.py::test_warning_is_an_instruction_and_control_goes_on",
    ),
    TriedKind(
        "gaps that a linker filled",
        "6.1 by lld, Ubuntu 10.04",
        "tests/rewrite/test_gaps.py"
        "::test_gap_that_a_linker_filled_moves_with_the_function_before_it",
    ),
    TriedKind(
        "short branches with prefixes",
        "made by hand",
        "tests/rewrite/test_branches.py"
        "::test_short_branch_with_prefixes_becomes_near_and_keeps_them",
    ),
    TriedKind(
        "short branches without a near form",
        "made by hand",
        "tests/rewrite/test_branches.py"
        "::test_branch_without_a_near_form_keeps_as_few_sites_native_as_it_takes",
    ),
    TriedKind(
        "a label inside of an instruction",
        "CentOS 6",
        "tests/rewrite/test_inner_labels.py::test_label_on_a_displacement_moves_with_the_branch",
    ),
    TriedKind(
        "jumps to physical addresses",
        "Debian 6 and 7",
        "tests/rewrite/test_physical.py::test_jump_a_page_offset_away_is_led_along",
    ),
    TriedKind(
        "absolute symbols whose values fall into the image",
        "5.10",
        "tests/rewrite/test_spoilt_tables.py"
        "::test_checksums_stay_and_addresses_without_a_section_move",
    ),
    TriedKind(
        ".bss with file content, .modinfo that is not packed",
        "7.2",
        "tests/image/test_twin.py::test_section_that_the_build_does_not_pack_is_no_difference",
    ),
    TriedKind(
        "e_entry in code that moves",
        "7.2",
        "tests/rewrite/test_sections.py::test_loader_enters_where_it_did",
    ),
    TriedKind(
        "words that happen to be physical addresses of code",
        "7.2",
        "tests/scan/test_sites.py::test_word_that_happens_to_be_a_physical_address_is_not_an_entry",
    ),
    TriedKind(
        "paravirtual calls that nothing keeps",
        "4.16 to 5.8",
        "tests/tables/test_paravirt_calls.py"
        "::test_a_kernel_without_the_variable_is_kept_from_it_by_a_return",
    ),
    TriedKind(
        "kprobes that look at first bytes only",
        "2.6.16 to 2.6.32",
        "tests/tables/test_kprobes.py::test_padding_is_what_the_kernels_probes_understand",
    ),
    TriedKind(
        "log levels as <6>",
        "up to 3.5",
        "tests/tables/test_log_levels.py::test_most_formats_of_the_kernel_decide",
    ),
    TriedKind(
        "boot parameters without a memory map",
        "up to 2.6.19",
        "tests/emu/test_loader.py::test_kernels_that_know_no_memory_map_are_told_how_much_there_is",
    ),
)
"""In the order in which a kernel file is worked on: boot code, symbols, tables, code, run."""
