# SPDX-License-Identifier: Apache-2.0
"""What every test class stands on.

A test declares the promise it looks at::

    @decorators.idempotent_id("...")
    @requirement("ENF-003", "A source that is not among allowed_cidrs gets no answer.")
    def test_denied_source(self):
        ...
        self.evidence(observation.pcap)

Its outcome becomes a verdict in the run's record, whatever happens: a failed assertion is
FAIL, or KNOWN_DEFECT when the registry knows each of its findings; a control that did not come
back is INCONCLUSIVE; an exception of the cloud or of ours is ERROR; a skip is SKIPPED with its
reason.
On anything but success the evidence is collected first, then Tempest sees the exception.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tempest import config
from tempest import test as tempest_test

from sriov_lb_tests import errors
from sriov_lb_tests.tests import stage
from sriov_lb_tests.verdicts.defects import Judgement
from sriov_lb_tests.verdicts.model import (
    Broken,
    Inconclusive,
    KnownDefect,
    NotEnforced,
    NotSupported,
    Result,
    Verdict,
)

CONF = config.CONF
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promise:
    """What a test looks at.

    :param needs: conditions without which it is skipped: ``admin``, ``admin_mode``,
        ``disruptive``, ``slow``, ``performance``, ``amphora_ssh``, ``ipv4``, ``ipv6``.
    """

    id: str
    sentence: str
    needs: tuple[str, ...] = ()


def requirement(
    requirement_id: str, sentence: str, *, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Declare the promise a test looks at; its outcome is recorded as a verdict."""

    def declare(method: Callable[[Any], None]) -> Callable[[Any], None]:
        promise = Promise(requirement_id, sentence, needs)

        @functools.wraps(method)
        def run(self: SriovLbTest) -> None:
            with self._verdict(promise):
                method(self)

        run.promise = promise  # type: ignore[attr-defined]
        return run

    return declare


class SriovLbTest(tempest_test.BaseTestCase):
    """Base of all classes: the shared stage, verdicts, evidence."""

    #: Credentials are the stage's: Tempest's end with the class, what we share does not.
    credentials: list[str] = []

    stage: stage.Stage

    @classmethod
    def resource_setup(cls) -> None:
        super().resource_setup()
        try:
            cls.stage = stage.get()
        except Exception as error:
            cls._record_all(error)
            raise

    def setUp(self) -> None:
        super().setUp()
        self._evidence: list[Path] = []
        #: What was seen, by name: goes into the record and to the registry of defects.
        self.seen: dict[str, Any] = {}
        #: Load balancers whose API view is evidence when this test fails, by label.
        self.involved: dict[str, Any] = {}

    # --- what a test says ---------------------------------------------------------------

    @property
    def site(self) -> Any:
        return self.stage.site

    @functools.cached_property
    def folder(self) -> Path:
        """Where this test's evidence goes."""
        return self.stage.run.evidence(type(self).__name__, self._testMethodName)

    def evidence(self, *paths: Any) -> None:
        """Add files to what the verdict stands on; None is ignored."""
        self._evidence += [Path(path) for path in paths if path]

    def keep(self, name: str, content: Any) -> Path:
        """Write evidence (text, or anything as JSON) and add it."""
        path = self.stage.keep(self.folder, name, content)
        self.evidence(path)
        return path

    # --- the verdict --------------------------------------------------------------------

    @contextmanager
    def _verdict(self, promise: Promise) -> Iterator[None]:
        started = time.time()
        # What is no Exception, such as Ctrl-C, leaves it at that.
        verdict, reason, defect = Verdict.ERROR, "It was interrupted.", None
        lacking = ""
        try:
            self._check_needs(promise.needs)
            yield
            verdict, reason = Verdict.PASS, ""
        except unittest.SkipTest as skip:
            verdict, reason = Verdict.SKIPPED, str(skip)
            raise
        except NotSupported as refusal:
            verdict, reason = Verdict.NOT_SUPPORTED, str(refusal)
        except Exception as error:
            verdict, reason = classify(error), str(error)
            self.seen.update(getattr(error, "seen", {}))
            lacking = self._not_collected()
            if isinstance(error, KnownDefect):
                defect = error.defect
            if verdict is not Verdict.FAIL:
                raise
            found = self._judge(promise, error)
            if found.known:
                verdict, defect = Verdict.KNOWN_DEFECT, found.ids
                release = self.stage.octavia_release
                reason = "\n".join(one.sentence(release) for one in found.defects)
                raise KnownDefect(
                    f"{reason}\n\nWhat was seen: {error}", defect=defect
                ) from error
            if not found.named:
                raise
            # What nobody knows yet is the failure; it must not hide among what is known.
            reason = f"{found}\n\nAll that was seen: {error}"
            raise Broken(reason, findings=found.unknown) from error
        finally:
            self.stage.recorder.append(
                Result(
                    requirement=promise.id,
                    sentence=promise.sentence,
                    verdict=verdict,
                    test=f"{type(self).__module__}.{type(self).__qualname__}.{self._testMethodName}",
                    reason=reason + lacking,
                    evidence=[self.stage.recorder.relative(p) for p in self._evidence],
                    observations=self.seen,
                    defect=defect,
                    started=started,
                    seconds=time.time() - started,
                    worker=os.getpid(),
                )
            )

    def _judge(self, promise: Promise, error: Exception) -> Judgement:
        findings = getattr(error, "findings", None) or [str(error)]
        return self.stage.registry.judge(
            promise.id, findings, self.seen, self.stage.octavia_release
        )

    def _not_collected(self) -> str:
        """Collect evidence; why that could not be done, "" when it was: the failure counts."""
        try:
            self._collect()
        except Exception as error:
            LOG.exception("Evidence could not be collected")
            return f"\n\nEvidence could not be collected: {error}"
        return ""

    def _collect(self) -> None:
        if self.involved:
            self.evidence(*self.stage.collect(self.folder, self.involved))

    @classmethod
    def _record_all(cls, error: Exception) -> None:
        """The class cannot start: each of its promises gets that as its verdict, if possible."""
        recorder = stage.recorder()
        if recorder is None:
            return
        for name in unittest.TestLoader().getTestCaseNames(cls):
            promise = getattr(getattr(cls, name), "promise", None)
            if promise is None:
                continue
            recorder.append(
                Result(
                    requirement=promise.id,
                    sentence=promise.sentence,
                    verdict=classify(error),
                    test=f"{cls.__module__}.{cls.__qualname__}.{name}",
                    reason=str(error),
                    started=time.time(),
                    worker=os.getpid(),
                )
            )

    # --- conditions ---------------------------------------------------------------------

    def _check_needs(self, needs: tuple[str, ...]) -> None:
        for need in needs:
            reason = getattr(self, f"_lacks_{need}")()
            if reason:
                raise self.skipException(reason)

    def _lacks_admin(self) -> str:
        if self.stage.clouds.admin is None:
            return "Only an administrator can see or make this ([sriov_lb] admin_cloud)."
        return ""

    def _lacks_admin_mode(self) -> str:
        if CONF.sriov_lb.mode != "admin":
            return "Only administrator mode makes flavors and aggregates ([sriov_lb] mode)."
        return self._lacks_admin()

    def _lacks_disruptive(self) -> str:
        if not CONF.sriov_lb.disruptive:
            return "It takes what others may need ([sriov_lb] disruptive is off)."
        return ""

    def _lacks_slow(self) -> str:
        if not CONF.sriov_lb.slow:
            return "It takes many minutes ([sriov_lb] slow is off)."
        return ""

    def _lacks_amphora_ssh(self) -> str:
        if not CONF.sriov_lb.amphora_ssh:
            return "The tests may not log in to amphorae ([sriov_lb] amphora_ssh is off)."
        return ""

    def _lacks_ipv4(self) -> str:
        return "" if 4 in self.site.vip_net.subnets else "The VIP network has no IPv4 subnet."

    def _lacks_ipv6(self) -> str:
        return "" if 6 in self.site.vip_net.subnets else "The VIP network has no IPv6 subnet."


def classify(error: Exception) -> Verdict:
    """The verdict that an exception means, before the registry is asked."""
    if isinstance(error, unittest.SkipTest):
        return Verdict.SKIPPED
    if isinstance(error, KnownDefect):
        return Verdict.KNOWN_DEFECT
    if isinstance(error, NotEnforced):
        return Verdict.NOT_ENFORCED
    if isinstance(error, Inconclusive | errors.ControlFailed):
        return Verdict.INCONCLUSIVE
    if isinstance(error, AssertionError):
        return Verdict.FAIL
    return Verdict.ERROR


def inconclusive(reason: str) -> NoReturn:
    """The control failed: what was seen proves nothing."""
    raise Inconclusive(reason)
