# SPDX-License-Identifier: MIT
"""Which steps make a verification? Static check and boots, done side by side, then judged."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from vmipatch.choices import LIMIT_NS, STATES, TIMEOUT_S, Extent
from vmipatch.emu.schedule import DEFAULT_TURN_LEN, other_turn_lens
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import multiboot_headers
from vmipatch.image.trim import without_debug
from vmipatch.image.types import Trimmed
from vmipatch.verify import workload
from vmipatch.verify.boots import (
    COMMAND_LINE,
    PLAIN_COMMAND_LINE,
    BootOrder,
    BootResult,
    Phase,
    run_boot,
)
from vmipatch.verify.coverage import Sites, coverage_of
from vmipatch.verify.judge import judge
from vmipatch.verify.lockstep.check import Lockstep, LockstepOrder, check_lockstep
from vmipatch.verify.parallel import News, Step, Watcher, run_steps
from vmipatch.verify.static import StaticVerdict, check_static
from vmipatch.verify.static.bzimage.check import check_bzimage
from vmipatch.verify.static.bzimage.inputs import Shipped
from vmipatch.verify.translations import Translations, check_translations
from vmipatch.verify.user_space import Detail
from vmipatch.verify.variation import Variation
from vmipatch.verify.variation.rounds import PERIOD, further, shifted
from vmipatch.verify.verdict import Evidence, Verdict
from vmipatch.verify.xen.machine import XenBoot, XenOrder, run_on_xen

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
_GRACE_S: Final = 30.0
"""Real time for a boot to end by itself, after which its process is killed."""
"""In the unit of timer shifts."""
OF_THE_ORIGINAL: Final = frozenset({Phase.ORIGINAL, Phase.TRAPPED})


@dataclass(frozen=True, slots=True)
class StaticResult:
    """The static check's result, and how long it took on this host."""

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


StepResult = BootResult | StaticResult | TranslationResult | XenBoot


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
        """The part of `image` that is needed: each process of a verification holds a copy.

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
    """A user's request."""

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
    shipped: Shipped | None = field(default=None, repr=False)
    """The bzImages that both came in, if they are to be proven, too."""
    is_packed: bool = False
    """Whether the kernel came in a bzImage."""
    timeout_s: float = TIMEOUT_S
    """Real time for each boot."""
    vary: int = 0
    """How often the original is booted once more, with a timer that ticks at another moment."""
    cpus: int = 1
    """Processors of the boots."""
    races: int = 0
    """How often the rewritten kernel is booted once more, in turns of other lengths."""
    xen: XenOrder | None = None
    """The same kernel as domain 0, if that is wanted."""


def verify(request: Request, watcher: Watcher | None = None) -> Verdict:
    """Do what was asked for, and judge it.

    Raises InputNotUnderstood if a file is not a kernel, is not rewritten, or does not fit the
    machine.
    """
    sites = Sites.of(ElfImage.parse(request.kernel.data, request.kernel.name))
    orders = sorted(_orders(request, sites), key=lambda order: order.phase is not Phase.AUDIT)
    steps = [_boot_step(order) for order in orders]  # the longest first
    if request.extent is Extent.SITES:
        steps = [_translation_step(request.kernel, request.states)]
    elif PHASES[request.extent] and not _is_nameless(request):
        steps.insert(1, _translation_step(request.kernel, request.states))
    if request.xen is not None:
        steps.append(_xen_step(request.xen))
    if request.original is not None and request.extent is not Extent.SITES:
        steps.insert(0, _static_step(request.original, request.kernel, request.shipped))
    static: StaticResult | None = None
    translations: TranslationResult | None = None
    on_xen: XenBoot | None = None
    found: dict[Phase, BootResult] = {}
    varied: list[BootResult] = []
    raced: list[BootResult] = []
    watcher = watcher or Watcher()
    for result in run_steps(steps, watcher):
        if isinstance(result, BootResult) and result.timer_shift:
            varied.append(result)
        elif isinstance(result, BootResult) and result.phase is Phase.RACED:
            raced.append(result)
        elif isinstance(result, BootResult):
            found[result.phase] = result
        elif isinstance(result, StaticResult):
            static = result
        elif isinstance(result, XenBoot):
            on_xen = result
        else:
            translations = result
    if varied:
        order = next(order for order in orders if order.phase is Phase.ORIGINAL)
        compared = [boot for phase, boot in found.items() if phase is not Phase.ORIGINAL]
        of_the_original = [found[Phase.ORIGINAL], *varied]
        boot_round = partial(_boot_round, order, request.vary, watcher)
        foreign = _detail(request) is not Detail.EXACT
        varied += further(of_the_original, compared, boot_round, foreign=foreign)
    lockstep = _lockstep(request, watcher) if request.extent is Extent.LOCKSTEP else None
    boots = {phase: found[phase] for phase in PHASES[request.extent] if phase in found}
    audit = boots.get(Phase.AUDIT)
    timed = (
        (Phase.STATIC, static),
        (Phase.TRANSLATIONS, translations),
        (Phase.LOCKSTEP, lockstep),
        (Phase.XEN, on_xen),
    )
    return judge(
        Evidence(
            kernel=request.kernel.name,
            original=request.original.name if request.original else None,
            sites=sites,
            static=static.verdict if static else None,
            translations=translations.verdict if translations else None,
            lockstep=lockstep.verdict if lockstep else None,
            on_xen=on_xen,
            seconds={phase: result.seconds for phase, result in timed if result is not None},
            boots=boots,
            coverage=coverage_of(sites, audit.executed) if audit else None,
            required_percent=request.required_percent,
            own_workload=_detail(request) is Detail.EXACT,
            is_packed=request.is_packed,
            varied=tuple(varied),
            variation=_variation(request, found, varied),
            cpus=request.cpus,
            raced=tuple(sorted(raced, key=lambda boot: boot.turn_len)),
        )
    )


def _variation(
    request: Request, found: dict[Phase, BootResult], varied: list[BootResult]
) -> Variation | None:
    if not varied:
        return None
    boots = (found[Phase.ORIGINAL], *varied)
    return Variation.of(boots, foreign=_detail(request) is not Detail.EXACT)


def _is_nameless(request: Request) -> bool:
    """Whether a kernel came in a bzImage without any symbol: nothing tells where C code begins."""
    image = ElfImage.parse(request.kernel.data, request.kernel.name)
    return request.is_packed and not len(image.symbols)


def _orders(request: Request, sites: Sites) -> list[BootOrder]:
    orders = []
    turns = [(phase, DEFAULT_TURN_LEN) for phase in PHASES[request.extent]]
    turns += [(Phase.RACED, length) for length in other_turn_lens(request.races)]
    for phase, turn_len in turns:
        kernel = request.original if phase in OF_THE_ORIGINAL else request.kernel
        if kernel is None:
            continue
        order = BootOrder(
            phase=phase,
            kernel=kernel.data,
            name=kernel.name,
            initrd=_initrd(request),
            command_line=_command_line(request),
            limit_ns=request.limit_ns,
            timeout_s=request.timeout_s,
            detail=_detail(request),
            sites=tuple(s.va for s in sites.annotated) if phase is Phase.AUDIT else (),
            cpus=request.cpus,
            turn_len=turn_len,
        )
        orders.append(order)
        if phase is Phase.ORIGINAL:
            orders += shifted(order, request.vary)
    return orders


def _boot_round(order: BootOrder, times: int, watcher: Watcher, number: int) -> list[BootResult]:
    """The boots of `order` in the round of that number."""
    steps = [_boot_step(each) for each in shifted(order, times, number)]
    return [boot for boot in run_steps(steps, watcher) if isinstance(boot, BootResult)]


def _detail(request: Request) -> Detail:
    if LINUX not in request.kernel.data:
        return Detail.NUMBERS
    return Detail.EXACT if request.initrd is None else Detail.TIMED


def _lockstep(request: Request, watcher: Watcher) -> LockstepResult:
    """Three machines in processes of their own; after the other steps, since it needs them all."""
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
        timeout_s=request.timeout_s,
        detail=_detail(request),
    )
    name, begun = Phase.LOCKSTEP.value, time.perf_counter()
    watcher.planned(1)
    watcher.started(name)
    verdict = check_lockstep(order, lambda machine, now_ns: watcher.heard(name, News(now_ns, "")))
    watcher.finished(name, verdict)
    return LockstepResult(verdict, time.perf_counter() - begun)


def _initrd(request: Request) -> bytes:
    if request.initrd is None:
        return b"" if _is_multiboot(request) else workload.initramfs()
    return request.initrd


def _is_multiboot(request: Request) -> bool:
    """Whether the kernel is not Linux, and knows neither our workload nor Linux's parameters."""
    return bool(multiboot_headers(request.kernel.data)) and LINUX not in request.kernel.data


def _command_line(request: Request) -> str:
    if _is_multiboot(request):
        return request.append
    line = COMMAND_LINE if request.cpus == 1 else PLAIN_COMMAND_LINE
    return f"{line} {request.append}".strip()


def _boot_step(order: BootOrder) -> Step[StepResult]:
    name = order.phase.value
    if order.timer_shift:
        name += f", timer shifted by {order.timer_shift / PERIOD:.3f}"
    if order.phase is Phase.RACED:
        name += f" of {order.turn_len} bytes"
    limit_s = None if order.timeout_s is None else order.timeout_s + _GRACE_S
    return Step(name, partial(run_boot, order), partial(_died, order), limit_s=limit_s)


def _xen_step(order: XenOrder) -> Step[StepResult]:
    def died(code: int) -> StepResult:
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        how = f"its process ended with {why}"
        return XenBoot(order.hypervisor_sha256, "", "", how, {}, 0.0)

    limit_s = order.timeout_s + _GRACE_S
    return Step(Phase.XEN.value, partial(run_on_xen, order), died, limit_s=limit_s)


def _died(order: BootOrder, code: int) -> BootResult:
    """The result of a boot whose process is gone, or had to be killed."""
    why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL and order.timeout_s is not None:
        why += f", as after {order.timeout_s:g} s, --timeout, and a grace of {_GRACE_S:g} s"
    return BootResult(
        phase=order.phase, ending=None, details=f"its process ended with {why}", place="", now_ns=0,
        blocks=0, console="", traces=(), executed=frozenset(), exits={}, emulated=(),
        functions={}, became_paravirtual=False, seconds=0.0, timer_shift=order.timer_shift,
        turn_len=order.turn_len,
    )  # fmt: skip


def _static_step(original: Kernel, output: Kernel, shipped: Shipped | None) -> Step[StepResult]:
    work = partial(_check_static, original, output, shipped)
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
    original: Kernel, output: Kernel, shipped: Shipped | None, _tell: Callable[[int, str], None]
) -> StepResult:
    begun = time.perf_counter()
    was, now = (ElfImage.parse(kernel.data, kernel.name) for kernel in (original, output))
    if shipped is None and hashlib.sha256(output.data).hexdigest() != output.sha256:
        # Debug sections were let go of, which the whole file still has.
        now = replace(now, trimmed=Trimmed(output.sha256, ()))
    digest, is_witness = original.sha256 or None, shipped is not None
    verdict = check_static(was, now, original.pinned, digest, is_witness=is_witness, must_run=True)
    if shipped is not None:
        verdict += check_bzimage(shipped)
    return StaticResult(verdict, time.perf_counter() - begun)


def _check_translations(
    output: Kernel, states: int, tell: Callable[[int, str], None]
) -> StepResult:
    begun = time.perf_counter()
    image = ElfImage.parse(output.data, output.name)
    found = check_translations(image, states, lambda text: tell(0, text))
    return TranslationResult(found, time.perf_counter() - begun)
