# SPDX-License-Identifier: MIT
"""`vmipatch xen-image`: a rewritten kernel as domain 0 of Xen."""

from __future__ import annotations

import click

from vmipatch.choices import DEFAULT_DOMAIN_MEMORY, DOMAIN_MEMORY
from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.errors import escaped
from vmipatch.files.outputs import Output, check_outputs, write_all


@click.command(
    "xen-image",
    epilog="Example: vmipatch xen-image vmlinux.vmi --initrd initrd.gz -o dom0.elf",
    short_help="Make a kernel domain 0 of Xen.",
)
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=OutputPath(), help="Where the image goes.")
@click.option("--initrd", type=click.Path(), help="Initial file system, put into the image.")
@click.option(
    "--append",
    default="",
    help="Kernel command line; what Xen is given for domain 0 is added to it.",
)
@click.option(
    "--domain-memory",
    "memory",
    type=click.Choice([str(size) for size in DOMAIN_MEMORY]),
    default=str(DEFAULT_DOMAIN_MEMORY),
    show_default=True,
    help="MiB of domain 0's memory, which the image spans: Xen's dom0_mem has to say the same.",
)
@json_option
@pass_console
def xen_image_command(
    console: Console,
    kernel: str,
    output: str,
    initrd: str | None,
    append: str,
    memory: str,
    json_file: str | None,
) -> None:
    """Put KERNEL, rewritten and with PAE, and a VMI ROM into an image that Xen starts as domain 0.

    Xen has to be built with CONFIG_PV32; docs/xen.md says how, and what is isolated from what.
    """
    from vmipatch.files.domain0 import SCHEMA
    from vmipatch.files.file import read_file
    from vmipatch.files.open import open_kernel

    check_outputs([kernel, *([initrd] if initrd else [])], [output, json_file])
    disk = read_file(initrd) if initrd else b""
    done = open_kernel(kernel).xen_image(initrd=disk, append=append, memory=int(memory))
    outputs = [Output(output, done.data)]
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, done.report(kernel, output)))
    write_all(outputs)
    console.say(
        f"{escaped(output)}: {len(done.data)} bytes, domain 0 of Xen, dom0_mem={done.memory}M"
    )
