# SPDX-License-Identifier: MIT
#
# Which steps are there, in their order, and what do they store?

.p2align 2
steps:
    .long step_calls, name_calls
    .long step_files, name_files
    .long step_memory, name_memory
    .long step_fork, name_fork
    .long step_switches, name_switches
    .long step_exec, name_exec
    .long step_signals, name_signals
    .long step_faults, name_faults
    .long step_timer, name_timer
    .long step_sleep, name_sleep
    .long step_clock, name_clock
    .long step_segments, name_segments
    .long step_ports, name_ports
    .long step_trace, name_trace
    .long 0, 0
exec_arguments:
    .long init_name, text_exec, text_exec, 0
no_environment:
    .long 0
timer:
    .long 0, 0, 0, 20000            # once, in 20 ms
moment:
    .long 0, 30000000
moment_64:
    .long 0, 0, 30000000, 0
segment:                            # struct user_desc: 32 bits, data, limit 4 GiB
    .long -1, 0, 0xfffff, 0x51
name_calls:    .asciz "verify: calls"
name_files:    .asciz "verify: files"
name_memory:   .asciz "verify: memory"
name_fork:     .asciz "verify: fork"
name_switches: .asciz "verify: switches"
name_exec:     .asciz "verify: exec"
name_signals:  .asciz "verify: signals"
name_faults:   .asciz "verify: faults"
name_timer:    .asciz "verify: timer"
name_sleep:    .asciz "verify: sleep"
name_clock:    .asciz "verify: clock"
name_segments: .asciz "verify: segments"
name_ports:    .asciz "verify: ports"
name_trace:    .asciz "verify: trace"
text_ok:       .asciz " ok\n"
text_failed:   .asciz " FAILED\n"
text_done:     .asciz "verify: done\n"
text_exec:     .asciz "exec"
file_name:     .asciz "/file"
init_name:     .asciz "/init"

.p2align 4
result:       .long 0
status:       .long 0
shared:       .long 0
number:       .long 0
handled:      .long 0
trap:         .long 0
fault_va:     .long 0
resume:       .long 0
last_seconds: .long 0
pipe_in:      .long 0
pipe_out:     .long 0
back_in:      .long 0
back_out:     .long 0
now:          .long 0, 0
action:       .long 0, 0, 0, 0, 0
buffer:
