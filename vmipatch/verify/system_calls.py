# SPDX-License-Identifier: MIT
"""What do the arguments and results of a system call mean? The table of i386 Linux.

Source: arch/x86/entry/syscalls/syscall_32.tbl (numbers and names) and include/linux/syscalls.h
(arguments). One letter an argument, in the order EBX, ECX, EDX, ESI, EDI, EBP; one after `=` for
the result, a plain value without one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class WordKind(enum.Enum):
    """The meaning of a word, and therefore whether two kernels have to agree on it."""

    VALUE = "v"  # they do
    LENGTH = "n"  # bytes or an offset: they do unless the workload reads what depends on time
    POINTER = "p"  # an address of the process
    PID = "c"  # a process: numbers depend on when the kernel made threads of its own
    TIME = "t"  # depends on the clock


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One row of the table."""

    number: int
    name: str
    arguments: tuple[WordKind, ...]
    result: WordKind


_ROWS: Final = """
0 restart_syscall, 1 exit v, 2 fork =c, 3 read vpn=n, 4 write vpn=n, 5 open pvv, 6 close v
7 waitpid cpv=c, 8 creat pv, 9 link pp, 10 unlink p, 11 execve ppp, 12 chdir p, 13 time p=t
14 mknod pvv, 15 chmod pv, 16 lchown pvv, 19 lseek vnv=n, 20 getpid =c, 21 mount pppvp
22 umount p, 23 setuid v, 24 getuid, 25 stime p, 26 ptrace vcpp=n, 27 alarm v=t, 29 pause
30 utime pp, 33 access pv, 34 nice v, 36 sync, 37 kill cv, 38 rename pp, 39 mkdir pv, 40 rmdir p
41 dup v, 42 pipe p, 43 times p=t, 45 brk p=p, 46 setgid v, 47 getgid, 48 signal vp=p, 49 geteuid
50 getegid, 51 acct p, 52 umount2 pv, 54 ioctl vvp, 55 fcntl vvp, 57 setpgid cc, 60 umask v
61 chroot p, 62 ustat vp, 63 dup2 vv, 64 getppid =c, 65 getpgrp =c, 66 setsid =c
67 sigaction vpp, 68 sgetmask, 69 ssetmask v, 70 setreuid vv, 71 setregid vv, 72 sigsuspend ppv
73 sigpending p, 74 sethostname pn, 75 setrlimit vp, 76 getrlimit vp, 77 getrusage vp
78 gettimeofday pp, 79 settimeofday pp, 80 getgroups vp, 81 setgroups vp, 82 select p=t
83 symlink pp, 85 readlink ppn=n, 86 uselib p, 87 swapon pv, 88 reboot vvvp, 89 readdir vpn
90 mmap p=p, 91 munmap pn, 92 truncate pn, 93 ftruncate vn, 94 fchmod vv, 95 fchown vvv
96 getpriority vc, 97 setpriority vcv, 99 statfs pp, 100 fstatfs vp, 101 ioperm vvv
102 socketcall vp=n, 103 syslog vpn=n, 104 setitimer vpp, 105 getitimer vp, 106 stat pp
107 lstat pp, 108 fstat vp, 110 iopl v, 111 vhangup, 114 wait4 cpvp=c, 115 swapoff p, 116 sysinfo p
117 ipc vvvvpp, 118 fsync v, 119 sigreturn =p, 120 clone vpppp=c, 121 setdomainname pn, 122 uname p
123 modify_ldt vpn, 124 adjtimex p, 125 mprotect pnv, 126 sigprocmask vpp, 128 init_module pnp
129 delete_module pv, 131 quotactl vpvp, 132 getpgid c=c, 133 fchdir v, 135 sysfs vpp
136 personality v, 138 setfsuid v, 139 setfsgid v, 140 _llseek vnnpv, 141 getdents vpn=n
142 _newselect vpppp=t, 143 flock vv, 144 msync pnv, 145 readv vpv=n, 146 writev vpv=n
147 getsid c=c, 148 fdatasync v, 150 mlock pn, 151 munlock pn, 152 mlockall v, 153 munlockall
154 sched_setparam cp, 155 sched_getparam cp, 156 sched_setscheduler cvp, 157 sched_getscheduler c
158 sched_yield, 159 sched_get_priority_max v, 160 sched_get_priority_min v
161 sched_rr_get_interval cp, 162 nanosleep pp, 163 mremap pnnvp=p, 164 setresuid vvv
165 getresuid ppp, 166 vm86 vp, 168 poll pvt=t, 170 setresgid vvv, 171 getresgid ppp, 172 prctl v
173 rt_sigreturn =p, 174 rt_sigaction vppv, 175 rt_sigprocmask vppv, 176 rt_sigpending pv
177 rt_sigtimedwait pppv, 178 rt_sigqueueinfo cvp, 179 rt_sigsuspend pv, 180 pread64 vpnnn=n
181 pwrite64 vpnnn=n, 182 chown pvv, 183 getcwd pn=n, 184 capget pp, 185 capset pp
186 sigaltstack pp, 187 sendfile vvpn=n, 190 vfork =c, 191 ugetrlimit vp, 192 mmap2 pnvvvn=p
193 truncate64 pnn, 194 ftruncate64 vnn, 195 stat64 pp, 196 lstat64 pp, 197 fstat64 vp
198 lchown32 pvv, 199 getuid32, 200 getgid32, 201 geteuid32, 202 getegid32, 203 setreuid32 vv
204 setregid32 vv, 205 getgroups32 vp, 206 setgroups32 vp, 207 fchown32 vvv, 208 setresuid32 vvv
209 getresuid32 ppp, 210 setresgid32 vvv, 211 getresgid32 ppp, 212 chown32 pvv, 213 setuid32 v
214 setgid32 v, 215 setfsuid32 v, 216 setfsgid32 v, 217 pivot_root pp, 218 mincore pnp
219 madvise pnv, 220 getdents64 vpn=n, 221 fcntl64 vvp, 224 gettid =c, 225 readahead vnnn
229 getxattr pppn=n, 238 tkill cv, 239 sendfile64 vvpn=n, 240 futex pvvppv
241 sched_setaffinity cnp, 242 sched_getaffinity cnp=n, 243 set_thread_area p, 244 get_thread_area p
250 fadvise64 vnnnv, 252 exit_group v, 254 epoll_create v, 255 epoll_ctl vvvp
256 epoll_wait vpvt=t, 258 set_tid_address p=c, 259 timer_create vpp, 260 timer_settime vvpp
261 timer_gettime vp, 262 timer_getoverrun v=t, 263 timer_delete v, 264 clock_settime vp
265 clock_gettime vp, 266 clock_getres vp, 267 clock_nanosleep vvpp, 268 statfs64 pnp
269 fstatfs64 vnp, 270 tgkill ccv, 271 utimes pp, 284 waitid vcpvp, 295 openat vpvv, 296 mkdirat vpv
297 mknodat vpvv, 298 fchownat vpvvv, 299 futimesat vpp, 300 fstatat64 vppv, 301 unlinkat vpv
302 renameat vpvp, 303 linkat vpvpv, 304 symlinkat pvp, 305 readlinkat vppn=n, 306 fchmodat vpv
307 faccessat vpv, 308 pselect6 vppppp=t, 309 ppoll pvppv=t, 311 set_robust_list pn
320 utimensat vppv, 322 timerfd_create vv, 323 eventfd v, 325 timerfd_settime vvpp
328 eventfd2 vv, 329 epoll_create1 v, 330 dup3 vvv, 331 pipe2 pv, 332 inotify_init1 v
340 prlimit64 cvpp, 345 sendmmsg vpvv, 353 renameat2 vpvpv, 355 getrandom pnv=n, 356 memfd_create pv
359 socket vvv, 362 connect vpn, 364 accept4 vppv, 369 sendto vpnvpn=n, 371 recvfrom vpnvpp=n
383 statx vpvvp, 384 arch_prctl vp, 386 rseq pnvv, 403 clock_gettime64 vp
406 clock_getres_time64 vp, 407 clock_nanosleep_time64 vvpp, 412 utimensat_time64 vppv
413 pselect6_time64 vppppp=t, 414 ppoll_time64 pvppv=t, 422 futex_time64 pvvppv
439 faccessat2 vpvv
"""


def _parse(row: str) -> SystemCall:
    number, name, *letters = row.split()
    arguments, _, result = "".join(letters).partition("=")
    return SystemCall(int(number), name, tuple(map(WordKind, arguments)), WordKind(result or "v"))


CALLS: Final = {
    call.number: call
    for line in _ROWS.strip().splitlines()
    for call in map(_parse, line.split(","))
}
"""By number. Of a call that is missing here, neither arguments nor a positive result compare."""

NUMBERS: Final = {call.name: call.number for call in CALLS.values()}
