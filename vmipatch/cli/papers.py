# SPDX-License-Identifier: MIT
"""Which papers of a verdict did the user ask for? All are written, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from vmipatch.cli.console import json_output
from vmipatch.files.outputs import Output, write_all


class Verdict(Protocol):
    """What can be asked of a verification of any kind of file."""

    def report(self) -> dict[str, Any]:
        """The JSON report."""

    def certificate(self) -> dict[str, Any]:
        """The certificate."""

    def sarif(self) -> bytes:
        """The findings as SARIF."""

    def html(self) -> str:
        """The page."""


@dataclass(frozen=True, slots=True)
class Papers:
    """Where each paper goes; None: it was not asked for."""

    json_file: str | None
    certificate_file: str | None
    sarif_file: str | None
    report_file: str | None

    @property
    def files(self) -> tuple[str | None, ...]:
        """All of them."""
        return (self.json_file, self.certificate_file, self.sarif_file, self.report_file)

    def write(self, verdict: Verdict, schema: str, certificate_schema: str) -> None:
        """Write what was asked for. Raises EnvironmentProblem, with nothing written."""
        outputs = []
        if self.json_file is not None:
            outputs.append(json_output(self.json_file, schema, verdict.report()))
        if self.report_file is not None:
            outputs.append(Output(self.report_file, verdict.html().encode()))
        if self.sarif_file is not None:
            outputs.append(Output(self.sarif_file, verdict.sarif()))
        if self.certificate_file is not None:
            content = verdict.certificate()
            outputs.append(json_output(self.certificate_file, certificate_schema, content))
        write_all(outputs)
