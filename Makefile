# SPDX-License-Identifier: MIT
# Every target sets up what it needs: on a fresh Debian 12, python3, python3-venv and make do.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What is checked; a directory that a checkout lacks is left out.
CODE := $(wildcard vmipatch tests examples tools benchmarks)

EXAMPLE := build/example/vmlinux
REWRITTEN := build/example/vmlinux.vmi

.PHONY: help demo test test-distro test-corpus lint format bench kernels campaign mutants clean programs
.DELETE_ON_ERROR:

help:
	@echo 'make demo      build a small guest kernel, rewrite it, verify the result'
	@echo 'make test      lint, then every test, boots in QEMU too'
	@echo 'make test-distro  the tests of Debian 12 kernels, which it fetches (1.6 GB)'
	@echo 'make test-corpus  every kernel of the corpus, every step: hours, docs/support.md (CORPUS=NAME...)'
	@echo 'make lint      format, style, types, direction of imports, licences, words'
	@echo 'make format    let ruff rewrite what it can'
	@echo 'make bench     what rewritten kernels, rewriting and the emulator cost (docs/bench.md)'
	@echo 'make kernels   fetch or build the test kernels'
	@echo 'make mutants   seed faults into rewritten kernels, count those found (docs/mutants.md)'
	@echo 'make campaign  the slow tests: mutation, fuzzing, differential'
	@echo 'make clean     remove build/ and .venv/'

# The stamp is written last: an interrupted installation starts again.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	@mkdir -p $(dir $(EXAMPLE))
	$(BIN)/python -m examples.guest -o $(EXAMPLE)
	@echo; $(BIN)/vmipatch scan $(EXAMPLE)
	@echo; $(BIN)/vmipatch rewrite $(EXAMPLE) -o $(REWRITTEN)
	@echo; $(BIN)/vmipatch verify $(REWRITTEN) --original $(EXAMPLE)
	@echo; echo 'The same with a kernel of yours, a vmlinux as its build leaves it (CONFIG_RELOCATABLE=y):'
	@echo '  $(BIN)/vmipatch rewrite vmlinux -o vmlinux.vmi'
	@echo '  $(BIN)/vmipatch verify vmlinux.vmi --original vmlinux'
	@echo '  $(BIN)/vmipatch wrap vmlinux.vmi -o bzImage'

test: lint kernels programs
	$(BIN)/pytest -n auto

# Its kernels have just been fetched: a missing one is a failure, not a skip. Tests of one file share
# boots: one process runs them all.
test-distro: kernels programs
	@tools/need-programs.sh 'grub-mkrescue:grub-common grub-pc-bin' xorriso:xorriso mformat:mtools \
		/usr/lib/grub/i386-pc:grub-pc-bin /usr/share/OVMF/OVMF32_VARS_4M.fd:ovmf-ia32 \
		/sbin/mke2fs:e2fsprogs
	$(BIN)/python -m tests.kernels debian-686 debian-686-pae tiny-packed smp-pae-modules
	CI=$${CI:-true} $(BIN)/pytest -n auto --dist loadfile -m distro

# It goes on where it was stopped. CORPUS names rows and options: 'debian11-* --steps scan,rewrite'.
test-corpus: kernels programs
	nice $(BIN)/python -m tests.corpus $(CORPUS)

lint: $(READY)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-logo --no-cache
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/reuse lint && \
	$(BIN)/python -m tools.habits; \
	else echo 'reuse, habits: left out, this is not a git checkout'; fi

format: $(READY)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

kernels: $(READY)
	$(BIN)/python -m tests.kernels

campaign: kernels programs
	$(BIN)/pytest -n auto -m slow

# MUTANTS names kernels, and how many files to damage: KERNEL:FILES:ALONE.
MUTANTS ?= tiny:8:8 smp-pae:2:2

mutants: kernels
	nice $(BIN)/python -m tests.verify.campaign $(MUTANTS)

bench: kernels programs
	$(BIN)/python -m benchmarks $(BENCH)

# What the tests run besides Python.
programs:
	@tools/need-programs.sh qemu-system-i386:qemu-system-x86 chromium:chromium \
		objdump:binutils 'gcc:gcc libc6-dev' \
		bzip2:bzip2 xz:xz-utils lzop:lzop lz4:lz4 zstd:zstd

clean:
	rm -rf build $(VENV)
