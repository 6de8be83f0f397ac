# SPDX-License-Identifier: Apache-2.0
"""Several looks at one step: none hides what another one found."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

from sriov_lb_tests.verdicts.model import Broken, Inconclusive


class Looks:
    """Collects failures, so that the rest is still looked at; then fails with all of them.

    ::

        looks = Looks()
        with looks:
            self.agrees(lb, step)
        with looks:
            self.assertTrue(answers)
        looks.conclude()

    Whatever is no verdict (a test or a cloud that broke) is raised at once, unless something was
    found before: a promise that was seen broken stays broken.
    """

    def __init__(self) -> None:
        self.failures: list[AssertionError] = []
        self.unclear: list[Inconclusive] = []

    def __enter__(self) -> Looks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, AssertionError):
            self.failures.append(error)
        elif isinstance(error, Inconclusive):
            self.unclear.append(error)
        elif isinstance(error, Exception) and self.failures:
            self._fail(f"Then the test or the cloud broke: {error}", error)
        return isinstance(error, (AssertionError, Inconclusive))

    def conclude(self) -> None:
        """:raises Broken: with every failure, the one that was found first in front.
        :raises Inconclusive: nothing failed, and something could not be told."""
        if self.failures:
            self._fail("", self.failures[0])
        if self.unclear:
            raise self.unclear[0]

    def _fail(self, afterwards: str, cause: Exception) -> NoReturn:
        findings = [
            finding
            for failure in self.failures
            for finding in (getattr(failure, "findings", None) or [str(failure)])
        ]
        said = [*map(str, self.failures), *([afterwards] if afterwards else [])]
        raise Broken("\n".join(said), findings=findings) from cause
