# SPDX-License-Identifier: Apache-2.0
"""Several looks at one step: none hides what another one found."""

from __future__ import annotations

from types import TracebackType

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

    Whatever is no verdict (a test or a cloud that broke) is raised at once.
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
        return isinstance(error, (AssertionError, Inconclusive))

    def conclude(self) -> None:
        """:raises Broken: with every failure, the one that was found first in front.
        :raises Inconclusive: nothing failed, and something could not be told."""
        if self.failures:
            findings = [
                finding
                for failure in self.failures
                for finding in (getattr(failure, "findings", None) or [str(failure)])
            ]
            raise Broken("\n".join(map(str, self.failures)), findings=findings) from (
                self.failures[0]
            )
        if self.unclear:
            raise self.unclear[0]
