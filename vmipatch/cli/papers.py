# SPDX-License-Identifier: MIT
"""Which papers of a verdict did the user ask for? All are written, or none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from vmipatch.cli.console import json_output
from vmipatch.files.outputs import Output, write_all

JSON, IN_TOTO = "json", "in-toto"
"""The forms of a certificate."""


class VerdictPapers(Protocol):
    """Questions that a verification of any kind of file answers."""

    def report(self) -> dict[str, Any]:
        """The JSON report."""

    def certificate(self) -> dict[str, Any]:
        """The certificate."""

    def subjects(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of each file that was verified."""

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
    certificate_format: str = JSON

    @property
    def files(self) -> tuple[str | None, ...]:
        """All of them."""
        return (self.json_file, self.certificate_file, self.sarif_file, self.report_file)

    def write(self, verdict: VerdictPapers, schema: str, certificate_schema: str) -> None:
        """Write what was asked for. Raises EnvironmentProblem, with nothing written."""
        outputs = []
        if self.json_file is not None:
            outputs.append(json_output(self.json_file, schema, verdict.report()))
        if self.report_file is not None:
            outputs.append(Output(self.report_file, verdict.html().encode()))
        if self.sarif_file is not None:
            outputs.append(Output(self.sarif_file, verdict.sarif()))
        if self.certificate_file is not None:
            outputs.append(self._certificate(self.certificate_file, verdict, certificate_schema))
        write_all(outputs)

    def _certificate(self, file: str, verdict: VerdictPapers, schema: str) -> Output:
        """The certificate, as it is or in a Statement of in-toto about the shipped files."""
        from vmipatch.verify.in_toto import statement

        plain = json_output(file, schema, verdict.certificate())
        if self.certificate_format == JSON:
            return plain
        content = statement(verdict.subjects(), schema, json.loads(plain.data))
        return Output(file, (json.dumps(content, indent=1) + "\n").encode())
