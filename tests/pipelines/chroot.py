# SPDX-License-Identifier: MIT
"""Where do the recipes run? In file systems that mmdebstrap makes from Debian's archive, once.

The cache keeps each as it was made; a test gets a copy, an overlay. What a command mounts there the
machine of the test does not see.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.absent import absent, program
from tests.support.kernels import default_cache

ENTER = """
mount -t proc proc "$1/proc" && mount -t sysfs sys "$1/sys" && mount --rbind /dev "$1/dev"
root=$1 machine=$2 && shift 2 && exec setarch "$machine" chroot "$root" env -i "$@"
"""
"""In a mount namespace of its own: nothing is left mounted, however the command ends."""
MACHINES = {"i386": "i686", "amd64": "x86_64"}
"""From Debian's name of the architecture to the answer of uname -m."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_WANTED = ("/usr/lib/debug/lib/*", "/usr/share/man/*", "/usr/share/locale/*")
"""Files that dpkg leaves out: gigabytes of debug information of modules among them."""


@dataclass(frozen=True, slots=True)
class Base:
    """A file system before a test: a release of Debian, an architecture and packages."""

    suite: str
    architecture: str
    packages: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Where the cache has it; another list of packages is another directory."""
        named = " ".join((self.suite, self.architecture, *self.packages, *NOT_WANTED))
        digest = hashlib.sha256(named.encode()).hexdigest()[:12]
        name = f"{self.suite}-{self.architecture}-{digest}"
        return default_cache().parent / "chroots" / name

    def make(self, log: Path) -> None:
        """Make it, if the cache has none. It appears there when it is complete."""
        if self.directory.exists():
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory.parent, prefix=".make-") as scratch:
            root = Path(scratch) / "root"
            command = [program("mmdebstrap"), "--mode=root", "--variant=apt"]
            command += [f"--architectures={self.architecture}"]
            # A mirror that is a snapshot stays signed, but not valid for more than a week.
            command += ['--aptopt=Acquire::Check-Valid-Until "false"']
            command += [f"--include={','.join(self.packages)}"]
            command += [f"--dpkgopt=path-exclude={path}" for path in NOT_WANTED]
            logged([*command, self.suite, str(root), mirror()], log)
            root.rename(self.directory)


def mirror() -> str:
    """The address of Debian's archive that this machine's own package lists come from."""
    form = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    done = subprocess.run([*form, "Codename: bookworm"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return lines[0] if lines else absent("apt has no source for bookworm: is this Debian 12?")


@dataclass(frozen=True, slots=True)
class Chroot:
    """A copy of a base, to do things in."""

    root: Path
    architecture: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Base, place: Path, log: Path) -> Chroot:
        """A fresh copy at `place`. Ends the test if this machine cannot make one."""
        if os.geteuid() != 0:
            absent("chroots are made by root: run `make test-pipelines` as root")
        base.make(log)
        root, upper, work = (place / name for name in ("root", "upper", "work"))
        for directory in (root, upper, work):
            directory.mkdir(parents=True)
        layers = f"lowerdir={base.directory},upperdir={upper},workdir={work}"
        logged(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], log)
        for name in ("resolv.conf", "hosts"):
            shutil.copyfile(f"/etc/{name}", root / "etc" / name)
        return cls(root, base.architecture, log)

    def close(self) -> None:
        """Take the copy away."""
        logged(["umount", str(self.root)], self.log)
        shutil.rmtree(self.root.parent)

    def run(self, *command: str | Path, **variables: str) -> str:
        """The output of a command; the test fails unless it ends with 0."""
        return logged(self._inside(command, variables), self.log)

    def attempt(self, *command: str | Path, **variables: str) -> tuple[int, str]:
        """Exit code of a command that may fail, and what it printed."""
        return _logged(self._inside(command, variables), self.log)

    def shell(self, script: str, **variables: str) -> str:
        """The same for a script of the shell, which ends at the first error."""
        return self.run("sh", "-e", "-c", script, **variables)

    def put(self, source: Path, inside: str) -> None:
        """Copy a file or directory of this machine to the path `inside`."""
        place = self.path(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True)
        else:
            shutil.copy(source, place)

    def path(self, inside: str) -> Path:
        """Where a path of the chroot is on this machine."""
        return self.root / inside.lstrip("/")

    def glob(self, pattern: str) -> list[Path]:
        """Files of the chroot, in order, as paths of this machine."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def _inside(self, command: Sequence[str | Path], variables: Mapping[str, str]) -> list[str]:
        settings = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        settings |= {"DEBIAN_FRONTEND": "noninteractive", **self.environment, **variables}
        words = [f"{name}={value}" for name, value in settings.items()]
        enter = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root)]
        return [*enter, MACHINES[self.architecture], *words, *(str(word) for word in command)]


def logged(command: Sequence[str], log: Path) -> str:
    """The output of a command of this machine, kept in `log` too; it has to end with 0."""
    code, text = _logged(command, log)
    assert code == 0, f"{shlex.join(command)}: {code}\n{text[-4000:]}\nall of it: {log}"
    return text


def _logged(command: Sequence[str], log: Path) -> tuple[int, str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    shown = command[command.index(ENTER) + 2 :] if ENTER in command else command
    with log.open("ab") as out:
        out.write(f"$ {shlex.join(shown)}\n".encode())
        out.flush()
        begin = out.tell()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False
        )
        out.seek(0, os.SEEK_END)
        end = out.tell()
        out.write(f"[exit code {done.returncode}]\n".encode())
    with log.open("rb") as written:
        written.seek(begin)
        text = written.read(end - begin).decode(errors="replace")
    return done.returncode, text
