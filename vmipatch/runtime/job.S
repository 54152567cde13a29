# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What is to be patched, for the kernel or for a module: a job of job_len bytes, at EBP.

.set job_self, 0            # run-time address of the runtime minus its linked address
.set job_added, 4           # the same for the words of the tables: 0 if a loader has linked them
.set job_records, 8
.set job_records_end, 12
.set job_calls, 16          # calls inside thunks
.set job_calls_end, 20
.set job_fallback, 24
.set job_fallback_end, 28
.set job_refused, 32        # calls inside thunks that the ROM refused
.set job_first_refused, 36  # the number of the first one
.set job_patched, 40        # sites
.set job_left, 44           # sites that stay as they were
.set job_len, 48
