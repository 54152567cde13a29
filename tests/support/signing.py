# SPDX-License-Identifier: MIT
"""How does a test sign modules and bzImages? With a key of its own, by openssl and sbsign."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.absent import program

SUBJECT = "/CN=test key"
END = b"~Module signature appended~\n"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key and its certificate."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Signer:
        """A fresh RSA key; ends the test without the programs."""
        for name in ("openssl", "sbsign"):
            program(name)
        signer = cls(directory)
        _run(
            "openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-batch", "-subj",
            SUBJECT, "-days", "9", "-keyout", signer.key, "-out", signer.certificate,
        )  # fmt: skip
        return signer

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "certificate.pem"

    def pkcs7(self, data: bytes, *options: str) -> bytes:
        """A detached signature; with -noattr and -nocerts as scripts/sign-file makes it."""
        source, target = self.directory / "data", self.directory / "signature"
        source.write_bytes(data)
        _run(
            "openssl", "cms", "-sign", "-binary", "-outform", "DER", "-md", "sha256", *options,
            "-signer", self.certificate, "-inkey", self.key, "-in", source, "-out", target,
        )  # fmt: skip
        return target.read_bytes()

    def module(self, data: bytes, *options: str) -> bytes:
        """The module with a signature appended (include/linux/module_signature.h)."""
        signature = self.pkcs7(data, *options)
        return data + signature + struct.pack(">5B3xI", 0, 0, 2, 0, 0, len(signature)) + END

    def bzimage(self, data: bytes) -> bytes:
        """The bzImage as sbsign signs it."""
        source, target = self.directory / "image", self.directory / "image.signed"
        source.write_bytes(data)
        _run("sbsign", "--key", self.key, "--cert", self.certificate, "--output", target, source)
        return target.read_bytes()


def unsigned(module: bytes) -> bytes:
    """A signed module without its signature (struct module_signature: its length comes last)."""
    assert module.endswith(END)
    end = len(module) - len(END)
    (length,) = struct.unpack(">I", module[end - 4 : end])
    return module[: end - 12 - length]


def _run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
