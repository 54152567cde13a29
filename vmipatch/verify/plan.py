# SPDX-License-Identifier: MIT
"""Which steps make a verification? Static check and boots, done side by side, then judged."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from vmipatch.choices import LIMIT_NS, STATES, Extent
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.verify import workload
from vmipatch.verify.boots import COMMAND_LINE, BootOrder, BootResult, Phase, run_boot
from vmipatch.verify.coverage import Sites, coverage_of
from vmipatch.verify.lockstep.check import Lockstep, LockstepOrder, check_lockstep
from vmipatch.verify.parallel import News, Step, Watcher, run_steps
from vmipatch.verify.static import StaticVerdict, check_static
from vmipatch.verify.translations import Translations, check_translations
from vmipatch.verify.user_space import Detail
from vmipatch.verify.verdict import Evidence, Verdict, judge

LINUX: Final = b"Linux version "
"""In every Linux (init/version.c). Another kernel does not know our workload."""


PHASES: Final[dict[Extent, tuple[Phase, ...]]] = {
    Extent.STATIC: (),
    Extent.SITES: (),
    Extent.QUICK: (Phase.AUDIT,),
    Extent.NORMAL: (Phase.ORIGINAL, Phase.NATIVE, Phase.AUDIT),
    Extent.LOCKSTEP: (),
    Extent.FULL: (Phase.ORIGINAL, Phase.NATIVE, Phase.AUDIT, Phase.MEASURED, Phase.TRAPPED),
}
OF_THE_ORIGINAL: Final = frozenset({Phase.ORIGINAL, Phase.TRAPPED})


@dataclass(frozen=True, slots=True)
class StaticResult:
    """What the static check came to, and how long it took on this host."""

    verdict: StaticVerdict
    seconds: float


@dataclass(frozen=True, slots=True)
class TranslationResult:
    """The same for the translations."""

    verdict: Translations
    seconds: float


@dataclass(frozen=True, slots=True)
class LockstepResult:
    """The same for the machines in lockstep."""

    verdict: Lockstep
    seconds: float


StepResult = BootResult | StaticResult | TranslationResult


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file: an ELF file, whatever it came in."""

    name: str
    data: bytes = field(repr=False)
    sha256: str = ""
    """Of the whole ELF file; `data` may lack its debug information."""
    file_sha256: str = ""
    """Of the file that it came in."""
    pinned: tuple[tuple[int, int], ...] = ()
    """Ranges of code that must not have moved: its references were recovered, and are in doubt."""
    beside_sha256: str = ""
    """Of the file that its references came from; empty if it was this one."""

    @classmethod
    def of(
        cls,
        image: ElfImage,
        pinned: tuple[tuple[int, int], ...] = (),
        file_sha256: str | None = None,
        source: ElfImage | None = None,
        beside_sha256: str = "",
    ) -> Kernel:
        """What is needed of `image`: each process of a verification holds a copy.

        `file_sha256` if the image came in a file of another kind, `source` if symbols and
        relocations were recovered: the image as it was found, by which it is known;
        `beside_sha256` if its relocations came from another file.
        """
        digest = (source or image).file_sha256
        return cls(
            image.name, without_debug(image).data, digest, file_sha256 or digest, pinned,
            beside_sha256,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for."""

    kernel: Kernel
    original: Kernel | None
    extent: Extent = Extent.NORMAL
    initrd: bytes | None = field(default=None, repr=False)
    """None: verify's own."""
    append: str = ""
    """More for the command line."""
    required_percent: float | None = None
    limit_ns: int = LIMIT_NS
    states: int = STATES
    """Random states in which each shape of site is executed."""


def verify(request: Request, watcher: Watcher | None = None) -> Verdict:
    """Do what was asked for, and judge it.

    Raises InputNotUnderstood if a kernel is none, was not rewritten, or does not fit the machine.
    """
    sites = Sites.of(ElfImage.parse(request.kernel.data, request.kernel.name))
    orders = sorted(_orders(request, sites), key=lambda order: order.phase is not Phase.AUDIT)
    steps = [_boot_step(order) for order in orders]  # the longest first
    if request.extent is Extent.SITES:
        steps = [_translation_step(request.kernel, request.states)]
    elif PHASES[request.extent]:
        steps.insert(1, _translation_step(request.kernel, request.states))
    if request.original is not None and request.extent is not Extent.SITES:
        steps.insert(0, _static_step(request.original, request.kernel))
    static: StaticResult | None = None
    translations: TranslationResult | None = None
    found: dict[Phase, BootResult] = {}
    watcher = watcher or Watcher()
    for result in run_steps(steps, watcher):
        if isinstance(result, BootResult):
            found[result.phase] = result
        elif isinstance(result, StaticResult):
            static = result
        else:
            translations = result
    lockstep = _lockstep(request, watcher) if request.extent is Extent.LOCKSTEP else None
    boots = {phase: found[phase] for phase in PHASES[request.extent] if phase in found}
    audit = boots.get(Phase.AUDIT)
    timed = (
        (Phase.STATIC, static),
        (Phase.TRANSLATIONS, translations),
        (Phase.LOCKSTEP, lockstep),
    )
    return judge(
        Evidence(
            kernel=request.kernel.name,
            original=request.original.name if request.original else None,
            sites=sites,
            static=static.verdict if static else None,
            translations=translations.verdict if translations else None,
            lockstep=lockstep.verdict if lockstep else None,
            seconds={phase: result.seconds for phase, result in timed if result is not None},
            boots=boots,
            coverage=coverage_of(sites, audit.executed) if audit else None,
            required_percent=request.required_percent,
            own_workload=_detail(request) is Detail.EXACT,
        )
    )


def _orders(request: Request, sites: Sites) -> list[BootOrder]:
    orders = []
    for phase in PHASES[request.extent]:
        kernel = request.original if phase in OF_THE_ORIGINAL else request.kernel
        if kernel is None:
            continue
        orders.append(
            BootOrder(
                phase=phase,
                kernel=kernel.data,
                name=kernel.name,
                initrd=_initrd(request),
                command_line=_command_line(request),
                limit_ns=request.limit_ns,
                detail=_detail(request),
                sites=tuple(s.va for s in sites.annotated) if phase is Phase.AUDIT else (),
            )
        )
    return orders


def _detail(request: Request) -> Detail:
    if LINUX not in request.kernel.data:
        return Detail.NUMBERS
    return Detail.EXACT if request.initrd is None else Detail.TIMED


def _lockstep(request: Request, watcher: Watcher) -> LockstepResult:
    """Three machines in processes of their own; behind the other steps, since it needs them all."""
    original, kernel = request.original, request.kernel
    assert original is not None, "lockstep compares with the original"
    order = LockstepOrder(
        original=original.data,
        original_name=original.name,
        kernel=kernel.data,
        kernel_name=kernel.name,
        initrd=_initrd(request),
        command_line=_command_line(request),
        limit_ns=request.limit_ns,
        detail=_detail(request),
    )
    name, begun = Phase.LOCKSTEP.value, time.perf_counter()
    watcher.started(name)
    verdict = check_lockstep(order, lambda machine, now_ns: watcher.heard(name, News(now_ns, "")))
    watcher.finished(name, verdict)
    return LockstepResult(verdict, time.perf_counter() - begun)


def _initrd(request: Request) -> bytes:
    return workload.initramfs() if request.initrd is None else request.initrd


def _command_line(request: Request) -> str:
    return f"{COMMAND_LINE} {request.append}".strip()


def _boot_step(order: BootOrder) -> Step[StepResult]:
    return Step(order.phase.value, partial(run_boot, order), partial(_died, order.phase))


def _died(phase: Phase, code: int) -> BootResult:
    """What a boot came to whose process is gone."""
    why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return BootResult(
        phase=phase, ending=None, details=f"its process ended with {why}", place="", now_ns=0,
        blocks=0, console="", traces=(), executed=frozenset(), exits={}, emulated=(),
        functions={}, became_paravirtual=False, seconds=0.0,
    )  # fmt: skip


def _static_step(original: Kernel, output: Kernel) -> Step[StepResult]:
    work = partial(_check_static, original, output)
    return Step(Phase.STATIC.value, work, partial(_gave_up, Phase.STATIC), is_harmless=True)


def _translation_step(output: Kernel, states: int) -> Step[StepResult]:
    work = partial(_check_translations, output, states)
    return Step(Phase.TRANSLATIONS.value, work, _translations_died)


def _translations_died(code: int) -> StepResult:
    """Nothing but a kernel that leads the emulator astray ends this process."""
    return TranslationResult(Translations(0, 0, (f"its process ended with {code}",)), 0.0)


def _gave_up(phase: Phase, code: int) -> StepResult:
    raise RuntimeError(f"the process of the {phase.value} ended with {code}")


def _check_static(
    original: Kernel, output: Kernel, _tell: Callable[[int, str], None]
) -> StepResult:
    begun = time.perf_counter()
    was, now = (ElfImage.parse(kernel.data, kernel.name) for kernel in (original, output))
    return StaticResult(
        check_static(was, now, original.pinned, original.sha256 or None),
        time.perf_counter() - begun,
    )


def _check_translations(
    output: Kernel, states: int, _tell: Callable[[int, str], None]
) -> StepResult:
    begun = time.perf_counter()
    image = ElfImage.parse(output.data, output.name)
    return TranslationResult(check_translations(image, states), time.perf_counter() - begun)
