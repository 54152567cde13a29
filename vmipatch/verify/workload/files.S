# SPDX-License-Identifier: MIT
#
# What do calls, files and memory have to do?

# Two calls in a row give the same pid, a thousand times.
step_calls:
    mov eax, sys_getpid
    call sys
    mov esi, eax
    mov edi, 1000
ask_again:
    mov eax, sys_getpid
    call sys
    cmp eax, esi
    jne failed
    dec edi
    jnz ask_again
succeeded:
    xor eax, eax
    ret
failed:
    mov eax, 1
    ret

# What is written to a file is read back.
step_files:
    mov eax, sys_open
    mov ebx, file_name
    mov ecx, 0x242                  # O_RDWR | O_CREAT | O_TRUNC
    mov edx, 0x180
    call sys
    test eax, eax
    js failed
    mov ebp, eax
    mov edi, 16
write_more:
    call fill_buffer
    mov ebx, ebp
    mov ecx, buffer
    mov edx, page_len
    mov eax, sys_write
    call sys
    cmp eax, page_len
    jne failed
    dec edi
    jnz write_more
    mov ebx, ebp
    xor ecx, ecx
    xor edx, edx
    mov eax, sys_lseek
    call sys
    mov edi, 16
read_more:
    mov ebx, ebp
    mov ecx, buffer
    mov edx, page_len
    mov eax, sys_read
    call sys
    cmp eax, page_len
    jne failed
    call check_buffer
    jne failed
    dec edi
    jnz read_more
    mov ebx, ebp
    mov eax, sys_close
    call sys
    mov ebx, file_name
    mov eax, sys_unlink
    call sys
    ret

# Fill the buffer with words made of EDI and their place; check_buffer sets ZF if they are there.
fill_buffer:
    mov ecx, 1023
fill_next:
    mov eax, edi
    shl eax, 16
    or eax, ecx
    mov dword ptr [buffer + ecx * 4], eax
    dec ecx
    jns fill_next
    ret
check_buffer:
    mov ecx, 1023
check_next:
    mov eax, edi
    shl eax, 16
    or eax, ecx
    cmp dword ptr [buffer + ecx * 4], eax
    jne check_end
    dec ecx
    jns check_next
    xor eax, eax
check_end:
    ret

# The heap grows, and a private mapping comes and goes: each page is touched for the first time.
step_memory:
    xor ebx, ebx
    mov eax, sys_brk
    call sys
    mov esi, eax
    lea ebx, [eax + heap_len]
    mov eax, sys_brk
    call sys
    mov edx, esi
    call touch
    jne failed
    push 0
    push -1
    push 0x22                       # MAP_PRIVATE | MAP_ANONYMOUS
    push 3                          # PROT_READ | PROT_WRITE
    push heap_len
    push 0
    mov ebx, esp
    mov eax, sys_mmap
    call sys
    add esp, 24
    cmp eax, -4096
    ja failed
    mov edx, eax
    mov ebx, eax
    call touch
    jne failed
    mov ecx, heap_len
    mov eax, sys_munmap
    call sys
    ret

# Write and read a word of each of `pages` pages from EDX on; ZF if all were zero before.
touch:
    mov ecx, pages
touch_next:
    cmp dword ptr [edx], 0
    jne touch_end
    mov dword ptr [edx], ecx
    cmp dword ptr [edx], ecx
    jne touch_end
    add edx, page_len
    dec ecx
    jnz touch_next
touch_end:
    ret
