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

SITE := build/site

.PHONY: help demo site test test-distro test-xen test-corpus test-pipelines lint format bench kernels campaign mutants fuzz guests clean programs
.DELETE_ON_ERROR:

help:
	@echo 'make demo      build a small guest kernel, rewrite it, verify the result'
	@echo 'make test      lint, then every test, boots in QEMU too'
	@echo 'make test-distro  the tests of Debian 12 kernels, which it fetches (1.6 GB)'
	@echo 'make test-xen  builds Xen, boots rewritten kernels on it (docs/xen.md)'
	@echo 'make test-corpus  every kernel of the corpus, every step: hours, docs/support.md (CORPUS=NAME...)'
	@echo 'make test-pipelines  the recipes of examples/pipelines, in chroots of Debian (root, 9 GB)'
	@echo 'make lint      format, style, types, direction of imports, licences, words'
	@echo 'make site      docs as a site, in build/site, without network'
	@echo 'make format    let ruff rewrite what it can'
	@echo 'make bench     what rewritten kernels, rewriting and the emulator cost (docs/bench.md)'
	@echo 'make kernels   fetch or build the test kernels'
	@echo 'make mutants   seed faults into rewritten kernels, count those found (docs/mutants.md)'
	@echo 'make fuzz      changed files and outputs, as long as told (SECONDS=60): findings, reproducers'
	@echo 'make guests    two processors of random code, in each mode (GUESTS=500): endings, findings'
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
	$(BIN)/python -m tests.kernels debian-686 debian-686-pae debian-foreign tiny-packed smp-pae-modules
	CI=$${CI:-true} $(BIN)/pytest -n auto --dist loadfile -m distro

# Xen's source and Debian's kernel are fetched, Xen is built, once.
test-xen: kernels programs
	@tools/need-programs.sh qemu-system-x86_64:qemu-system-x86
	$(BIN)/python -m tests.kernels debian-686-pae
	$(BIN)/python -m tests.xen
	CI=$${CI:-true} $(BIN)/pytest -m xen tests/xen

# It goes on where it was stopped. CORPUS names rows and options: 'debian11-* --steps scan,rewrite'.
test-corpus: kernels programs
	nice $(BIN)/python -m tests.corpus $(CORPUS)

# Each recipe with the tools it is for; what every command said is kept in build/pipelines.
test-pipelines: kernels programs
	@tools/need-programs.sh mmdebstrap:mmdebstrap /sbin/mke2fs:e2fsprogs shellcheck:shellcheck \
		flex:flex bison:bison bc:bc rsync:rsync cpio:cpio depmod:kmod fakeroot:fakeroot \
		dpkg-buildpackage:dpkg-dev /usr/include/openssl/ssl.h:libssl-dev
	CI=$${CI:-true} $(BIN)/pytest tests/examples/test_pipelines.py
	CI=$${CI:-true} $(BIN)/pytest -n 0 -p no:randomly -m pipelines tests/pipelines

lint: $(READY)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m tools.homonyms
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/reuse lint && \
	$(BIN)/python -m tools.habits; \
	else echo 'reuse, habits: left out, this is not a git checkout'; fi

# A broken link, anchor or picture is an error.
site: $(READY)
	$(BIN)/python -m tools.pictures
	$(BIN)/sphinx-build -q -E -W --keep-going -n -c tools/site docs $(SITE)
	@echo '$(SITE)/index.html'

format: $(READY)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

kernels: $(READY)
	$(BIN)/python -m tests.kernels

# Draws that no run had before; each seed is printed.
campaign: kernels programs
	VMIPATCH_SEED=new $(BIN)/pytest -n auto -m slow --randomly-seed=default \
		--hypothesis-profile=new

# MUTANTS names kernels, and how many files to damage: KERNEL:FILES:ALONE. ADVERSARIAL names files, and
# how many deliberate changes to make: FILE:CHANGES. Those go on where they were stopped.
MUTANTS ?= tiny:8:8 smp-pae:2:2
ADVERSARIAL ?= tiny:1500 smp-pae:400 tiny/bzImage:100 debian-686:100

mutants: kernels
	$(BIN)/python -m tests.kernels debian-686
	nice $(BIN)/python -m tests.verify.campaign $(MUTANTS)
	nice $(BIN)/python -m tests.verify.adversarial $(ADVERSARIAL)

# It prints its seed; FUZZ takes one (--seed N). A finding's reproducer goes into tests/fuzz/corpus.json.
SECONDS ?= 60

fuzz: $(READY)
	nice -n 19 $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

GUESTS ?= 500

guests: $(READY)
	nice $(BIN)/python -m tests.emu.hypervisor.random_processors --guests $(GUESTS)

bench: kernels programs
	$(BIN)/python -m benchmarks $(BENCH)

# What the tests run besides Python.
programs:
	@tools/need-programs.sh qemu-system-i386:qemu-system-x86 chromium:chromium \
		objdump:binutils 'gcc:gcc libc6-dev' iasl:acpica-tools \
		bzip2:bzip2 xz:xz-utils lzop:lzop lz4:lz4 zstd:zstd \
		openssl:openssl sbsign:sbsigntool

clean:
	rm -rf build $(VENV)
