# SPDX-License-Identifier: Apache-2.0
"""The eight verdicts.

A verdict is about a promise, not about a test: a test that blows up says nothing about the
promise (ERROR), and neither does silence without a control (INCONCLUSIVE).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class Verdict(enum.Enum):
    """From best to worst news; the value is what stands in files."""

    PASS = "PASS"
    SKIPPED = "SKIPPED"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    NOT_ENFORCED = "NOT_ENFORCED"
    KNOWN_DEFECT = "KNOWN_DEFECT"
    FAIL = "FAIL"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANING[self]

    @property
    def broken(self) -> bool:
        """Whether the promise is shown not to hold: a failed test."""
        return self in (Verdict.FAIL, Verdict.KNOWN_DEFECT, Verdict.NOT_ENFORCED)

    @property
    def rank(self) -> int:
        """Higher is worse; the worst verdict of a requirement's tests is the requirement's."""
        return list(Verdict).index(self)


_MEANING = {
    Verdict.PASS: "The promise held.",
    Verdict.SKIPPED: "Not looked at, for the reason given.",
    Verdict.NOT_SUPPORTED: "The cloud refused honestly: it does not offer this.",
    Verdict.INCONCLUSIVE: "The control failed, so what was seen proves nothing.",
    Verdict.ERROR: "The test or the cloud broke before the promise could be tried.",
    Verdict.NOT_ENFORCED: "Accepted and read back, but without effect on the wire.",
    Verdict.KNOWN_DEFECT: "The promise did not hold, and the defect behind it is known.",
    Verdict.FAIL: "The promise did not hold.",
}


class Broken(AssertionError):
    """Raised in place of a failure, so that Tempest reports a failure with our words.

    :param findings: what is wrong, one thing each, a sentence in its first line. The failure is a
        known defect only if each of them is one. Default: the text is the only one.
    """

    def __init__(self, text: str = "", findings: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.findings = tuple(findings) or (text,)


class KnownDefect(Broken):
    """A failure whose causes are in the registry; a test that asked it itself raises this.

    :param defect: their ids.
    """

    def __init__(self, text: str = "", findings: Iterable[str] = (), defect: str = "") -> None:
        super().__init__(text, findings)
        self.defect = defect


class NotEnforced(Broken):
    """The control plane took it and shows it, and the wire does not know of it."""


class NotSupported(Exception):
    """The cloud refused honestly what was asked. Recorded; the test goes on to pass."""


class Inconclusive(Exception):
    """The control did not come back. Tempest sees an error."""


@dataclass
class Result:
    """One requirement as one test saw it.

    :param requirement: such as ``ENF-003``.
    :param sentence: the promise, one sentence.
    :param test: id of the test.
    :param reason: why this verdict; "" for PASS.
    :param evidence: paths relative to the run's folder.
    :param defect: ids of the known defects behind it, with commas between them.
    :param observations: what was seen, for the registry of defects and for readers.
    :param seconds: how long the test took.
    """

    requirement: str
    sentence: str
    verdict: Verdict
    test: str
    reason: str = ""
    evidence: list[str] = field(default_factory=list)
    observations: dict[str, Any] = field(default_factory=dict)
    defect: str | None = None
    started: float = 0.0
    seconds: float = 0.0
    worker: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "verdict": self.verdict.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        return cls(**{**known, "verdict": Verdict(data["verdict"])})
