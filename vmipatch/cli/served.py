# SPDX-License-Identifier: MIT
"""Which option serves which kind of file, and which extent? One table; all else is refused."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
from click.core import ParameterSource

from vmipatch.choices import Extent, Mode
from vmipatch.files.kind import ANY, KERNELS, MODULES, Kind, with_article

BZIMAGES: Final = frozenset({Kind.BZIMAGE})
VMLINUXES: Final = frozenset({Kind.VMLINUX})
TREES: Final = frozenset({Kind.TREE})
FILES: Final = KERNELS | MODULES
FLATS: Final = frozenset({Kind.FLAT})
COMMON: Final = frozenset({"--verbose", "--quiet", "--help"})
"""Options of every command."""

KINDS: Final[Mapping[str, Mapping[str, frozenset[Kind]]]] = {
    "scan": {"--json": ANY | FLATS, "--base": FLATS, "--jobs": TREES},
    "rewrite": {
        "--output": ANY,
        "--pad": ANY,
        "--debug": BZIMAGES,
        "--boot-code": BZIMAGES,
        "--vmlinux": KERNELS,
        "--system-map": KERNELS,
        "--address-map": KERNELS,
        "--keep-original": ANY,
        "--start": VMLINUXES,
        "--keep": VMLINUXES,
        "--tree": TREES,
        "--jobs": TREES,
        "--json": ANY,
    },
    "verify": {
        "--original": ANY,
        "--debug": BZIMAGES,
        "--initrd": KERNELS,
        "--append": KERNELS,
        "--static": ANY,
        "--sites": KERNELS,
        "--states": KERNELS,
        "--quick": KERNELS,
        "--full": KERNELS,
        "--lockstep": KERNELS,
        "--require-coverage": KERNELS,
        "--cpus": KERNELS,
        "--races": KERNELS,
        "--xen": KERNELS,
        "--limit": KERNELS,
        "--timeout": KERNELS,
        "--vary": KERNELS,
        "--certificate": ANY,
        "--certificate-format": ANY,
        "--sarif": ANY,
        "--report": ANY,
        "--tree": TREES,
        "--jobs": TREES,
        "--json": ANY,
    },
    "restore": {"--output": ANY, "--tree": TREES, "--jobs": TREES, "--json": ANY},
    "doctor": {
        "--debug": BZIMAGES,
        "--bundle": FILES,
        "--names": FILES,
        "--json": FILES,
    },
    "run": {
        "--native": KERNELS,
        "--trap": KERNELS,
        "--paravirt": KERNELS,
        "--audit": KERNELS,
        "--rom": KERNELS,
        "--initrd": KERNELS,
        "--module": VMLINUXES,
        "--disk": KERNELS,
        "--append": KERNELS,
        "--memory": KERNELS,
        "--pae": KERNELS,
        "--apic": KERNELS,
        "--cpus": KERNELS,
        "--turn": KERNELS,
        "--limit": KERNELS,
        "--timeout": KERNELS,
        "--trace": KERNELS,
        "--json": KERNELS,
    },
    "wrap": {"--output": KERNELS, "--kaslr": KERNELS, "--json": KERNELS},
    "xen-image": {
        "--output": KERNELS,
        "--initrd": KERNELS,
        "--append": KERNELS,
        "--domain-memory": KERNELS,
        "--json": KERNELS,
    },
}
"""From a command that takes a file, and an option of it, to the kinds of file that it serves."""

_BOOTS: Final = frozenset({Extent.QUICK, Extent.NORMAL, Extent.FULL})
_COMPARES: Final = frozenset(Extent) - {Extent.SITES}
EXTENTS: Final[Mapping[str, Mapping[str, frozenset[enum.Enum]]]] = {
    "verify": {
        "--original": _COMPARES,
        "--debug": _COMPARES,
        "--initrd": _BOOTS | {Extent.LOCKSTEP},
        "--append": _BOOTS | {Extent.LOCKSTEP},
        "--limit": _BOOTS | {Extent.LOCKSTEP},
        "--timeout": _BOOTS | {Extent.LOCKSTEP},
        "--vary": _BOOTS - {Extent.QUICK},
        "--cpus": _BOOTS,
        "--races": _BOOTS,
        "--xen": _BOOTS - {Extent.QUICK},
        "--states": frozenset({Extent.SITES}),
        "--require-coverage": _BOOTS,
    },
    "run": {"--rom": frozenset({Mode.PARAVIRT, Mode.AUDIT})},
}
"""The same for options that not every extent of `verify` or mode of `run` has a use for."""
_NAMES: Final[Mapping[enum.Enum, str]] = {
    **{extent: f"--{extent.value}" for extent in Extent},
    **{mode: f"--{mode.value}" for mode in Mode},
    Extent.NORMAL: "a verification without --quick or --full",
}


class OneOfEach(click.Command):
    """A command whose flags exclude each other: `--static --full` is an error, not `--full`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after a look at what was given twice. Raises click.UsageError."""
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        chosen: dict[str | None, click.Option] = {}
        for option in order:
            if not isinstance(option, click.Option) or not _is_flag_of_several(option):
                continue
            other = chosen.setdefault(option.name, option)
            if other is not option:
                pair = f"{long_name(other)} and {long_name(option)}"
                raise click.UsageError(f"{pair} exclude each other", ctx)
        return super().parse_args(ctx, args)


def given(context: click.Context) -> Iterator[str]:
    """The options that the user gave to a command, by their long names."""
    chosen = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    for option in context.command.params:
        if not isinstance(option, click.Option) or option.name is None:
            continue
        if context.get_parameter_source(option.name) not in chosen:
            continue
        if _is_flag_of_several(option) and context.params.get(option.name) != option.flag_value:
            continue
        yield long_name(option)


def long_name(option: click.Option) -> str:
    """The name of an option in the tables."""
    return next(name for name in option.opts if name.startswith("--"))


def require_kind(context: click.Context, kind: Kind, path: str) -> None:
    """Raise click.UsageError if an option that was given does not serve the kind of `path`.

    The first argument decides: a command that serves no option of a kind does not take it.
    """
    served = KINDS[_command(context)]
    if not any(kind in kinds for kinds in served.values()):
        raise click.UsageError(f"{_command(context)} does not take {with_article(kind)}: {path}")
    for name in given(context):
        if name not in COMMON and kind not in served[name]:
            raise click.UsageError(f"{name} does not serve {with_article(kind)}, and {path} is one")


def require_extent(context: click.Context, extent: enum.Enum) -> None:
    """Raise click.UsageError if an option that was given is of no use for `extent`."""
    served = EXTENTS[_command(context)]
    for name in given(context):
        if name in served and extent not in served[name]:
            raise click.UsageError(f"{name} does not serve {_NAMES[extent]}")


def _command(context: click.Context) -> str:
    name = context.command.name
    assert name is not None, "every command has a name"
    return name


def _is_flag_of_several(option: click.Option) -> bool:
    value: Any = option.flag_value
    return option.is_flag and isinstance(value, str)
