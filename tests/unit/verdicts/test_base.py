# SPDX-License-Identifier: Apache-2.0
"""From what a test does to the verdict in the record, and to what Tempest sees."""

import functools
import unittest
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests import base, scene, stage
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.lifecycle import base as lifecycle
from sriov_lb_tests.verdicts import defects, record
from sriov_lb_tests.verdicts.model import (
    Broken,
    KnownDefect,
    NotEnforced,
    NotSupported,
    Verdict,
)


class Probe(base.SriovLbTest):
    """Not discovered: its tests are run one by one below."""

    __test__ = False
    action = None

    @requirement("ENF-900", "A promise.")
    def test_it(self):
        """Steps: do it. Verify: it is done."""
        type(self).action(self)

    @requirement("ENF-901", "A promise that needs what is not there.", needs=("admin",))
    def test_needs(self):
        """Steps: none. Verify: nothing."""
        raise AssertionError("must not run")

    # Tempest's own set-up wants a configuration and credentials.
    setUpClass = classmethod(lambda cls: None)
    tearDownClass = classmethod(lambda cls: None)


@pytest.fixture
def run(tmp_path, monkeypatch):
    recorder = record.Recorder(tmp_path)
    collected = []

    def collect(folder, lbs):
        collected.append(sorted(lbs))
        path = tmp_path / "view.json"
        path.write_text("{}")
        return [path]

    Probe.stage = SimpleNamespace(
        recorder=recorder,
        registry=defects.load(),
        octavia_release="",
        collect=collect,
        keep=functools.partial(stage.Stage.keep, None),
        clouds=SimpleNamespace(admin=None),
        site=SimpleNamespace(),
        run=SimpleNamespace(evidence=lambda *a: tmp_path),
    )
    # setUp and tearDown of Tempest's base read its configuration.
    monkeypatch.setattr(base.tempest_test.BaseTestCase, "setUp", unittest.TestCase.setUp)
    monkeypatch.setattr(base.tempest_test.BaseTestCase, "tearDown", unittest.TestCase.tearDown)

    def go(action, name="test_it"):
        Probe.action = action
        test = Probe(name)
        test.setUp()
        seen = None
        try:
            getattr(test, name)()
        except (Exception, unittest.SkipTest) as error:
            seen = error
        (written,) = record.read(tmp_path)[1][-1:]
        return written, seen, collected

    return go


def raising(error):
    def action(test):
        raise error

    return action


def test_pass(run):
    written, seen, collected = run(lambda test: test.seen.update(k="v"))
    assert (written.verdict, written.observations) == (Verdict.PASS, {"k": "v"})
    assert written.test.endswith("Probe.test_it")
    assert seen is None and collected == []


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (AssertionError("no"), Verdict.FAIL),
        (NotEnforced("no"), Verdict.NOT_ENFORCED),
        (errors.ControlFailed("no"), Verdict.INCONCLUSIVE),
        (errors.GuestUnreachable("no"), Verdict.ERROR),
        (KeyError("no"), Verdict.ERROR),
        (unittest.SkipTest("no"), Verdict.SKIPPED),
    ],
)
def test_each_end_has_its_verdict_and_tempest_sees_the_same_exception(run, error, verdict):
    written, seen, _ = run(raising(error))
    assert written.verdict is verdict
    assert "no" in written.reason
    assert seen is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_what_was_interrupted_did_not_pass(run, tmp_path, error):
    with pytest.raises(type(error)):
        run(raising(error))
    (written,) = record.read(tmp_path)[1]
    assert (written.verdict, written.reason) == (Verdict.ERROR, "It was interrupted.")


def test_an_honest_refusal_is_recorded_and_the_test_ends_well(run):
    written, seen, _ = run(raising(NotSupported("Octavia says 501")))
    assert (written.verdict, written.reason, seen) == (
        Verdict.NOT_SUPPORTED,
        "Octavia says 501",
        None,
    )


def test_evidence_is_collected_before_tempest_hears_of_the_failure(run):
    def action(test):
        test.involved = {"sriov": object()}
        test.keep("probe.txt", "frames")
        raise AssertionError("no")

    written, _, collected = run(action)
    assert collected == [["sriov"]]
    assert written.evidence == ["probe.txt", "view.json"]


def broken_collect(test):
    """No SDK error and none of ours, as keystoneauth's and paramiko's are."""
    test.involved = {"lb": object()}
    test.stage.collect = raising_call(ConnectionResetError("keystone is away"))


def test_evidence_that_cannot_be_collected_takes_no_verdict_away(run):
    failure = AssertionError("it was let in")

    def action(test):
        broken_collect(test)
        raise failure

    written, seen, _ = run(action)
    assert (written.verdict, seen) == (Verdict.FAIL, failure)
    assert written.reason == (
        "it was let in\n\nEvidence could not be collected: keystone is away"
    )


def test_without_evidence_a_known_defect_is_known_all_the_same(run, notrack):
    def action(test):
        broken_collect(test)
        raise Broken(EAST, findings=[EAST])

    written, _, _ = run(action)
    assert (written.verdict, written.defect) == (Verdict.KNOWN_DEFECT, "OCTAVIA-MEMBER-NOTRACK")
    assert written.reason.endswith("\n\nEvidence could not be collected: keystone is away")


def test_a_load_balancer_that_a_test_failed_on_is_not_handed_on_for_want_of_evidence():
    class Life(lifecycle.LifecycleTest):
        __test__ = False

        def test_it(self):
            """Not run."""

    test, why = Life("test_it"), []
    test.harmless, test.own = False, SimpleNamespace(damage=why.append)
    broken_collect_of = SimpleNamespace(collect=raising_call(OSError("no ssh")))
    test.stage, test.involved, test.folder = broken_collect_of, {"lb": object()}, None
    assert "no ssh" in test._not_collected()
    assert why == ["a test failed on it"]


def test_each_promise_of_a_class_that_cannot_start_is_in_the_record(tmp_path, monkeypatch):
    class Life(lifecycle.LifecycleTest):
        __test__ = False

        @requirement("LIF-900", "A promise.")
        def test_it(self):
            """Not run."""

    quota = errors.QuotaExceeded("no more networks")
    monkeypatch.setattr(base.SriovLbTest, "resource_setup", classmethod(lambda cls: None))
    monkeypatch.setattr(stage, "_recorder", record.Recorder(tmp_path))
    monkeypatch.setattr(lifecycle, "Own", raising_call(quota))
    monkeypatch.setattr(lifecycle.scene, "of", lambda on: None)
    Life.stage = SimpleNamespace(take_back=lambda: None)
    with pytest.raises(errors.QuotaExceeded):
        Life.resource_setup()
    (written,) = record.read(tmp_path)[1]
    assert (written.requirement, written.verdict) == ("LIF-900", Verdict.ERROR)
    assert "no more networks" in written.reason


def test_what_a_test_needs_is_checked_first(run):
    written, seen, _ = run(None, "test_needs")
    assert written.verdict is Verdict.SKIPPED
    assert "administrator" in written.reason
    assert isinstance(seen, unittest.SkipTest)


def listener_broken(normal):
    def action(test):
        fault = errors.ResourceFault("The listener was to be ACTIVE and is ERROR.")
        scene.operate("listener-create", raising_call(fault), normal)

    return action


def raising_call(error):
    def call(*_args):
        raise error

    return call


def test_a_listener_that_fails_on_sriov_alone_is_a_known_defect_and_still_a_failure(run):
    written, seen, _ = run(listener_broken(lambda: "fine"))
    assert written.verdict is Verdict.KNOWN_DEFECT
    assert written.defect == "OCTAVIA-FIREWALL-TASK"
    assert written.observations["normal"] == "ACTIVE"
    assert isinstance(seen, AssertionError)
    assert "environment is not at fault" in str(seen)
    assert "is ERROR" in str(seen)


EAST = (
    "policy and ruleset disagree: TCP SYN from 203.0.113.10:40000 to 203.0.113.101:80 on eth2 "
    "(state established) has to pass (established flows: what was let in goes on)"
)
HOLE = "policy and wire disagree: TCP SYN from 192.0.2.9 to 203.0.113.10:22 may not pass, but did"


@pytest.fixture
def notrack(monkeypatch):
    """The probe's promise is one that OCTAVIA-MEMBER-NOTRACK breaks."""
    promise = base.Promise("ENF-008", "A promise.")

    def go(self):
        with self._verdict(promise):
            type(self).action(self)

    monkeypatch.setattr(Probe, "test_it", go)


def test_a_failure_is_known_when_each_of_its_findings_is(run, notrack):
    both = Broken(f"{EAST}\n{EAST} again", findings=[EAST, f"{EAST} again"])
    written, seen, _ = run(raising(both))
    assert (written.verdict, written.defect) == (Verdict.KNOWN_DEFECT, "OCTAVIA-MEMBER-NOTRACK")
    assert isinstance(seen, KnownDefect) and "again" in str(seen)


@pytest.mark.parametrize("findings", [[EAST, HOLE], [HOLE, EAST]])
def test_a_known_finding_does_not_hide_a_new_one(run, notrack, findings):
    written, seen, _ = run(raising(Broken("\n".join(findings), findings=findings)))
    assert (written.verdict, written.defect) == (Verdict.FAIL, None)
    assert written.reason.startswith(HOLE) and str(seen).startswith(HOLE)
    assert "Known besides, OCTAVIA-MEMBER-NOTRACK" in written.reason
    assert isinstance(seen, AssertionError) and not isinstance(seen, KnownDefect)


def test_what_follows_the_sentence_is_evidence_and_names_nothing(run, notrack):
    failure = AssertionError(f"{HOLE}\n{EAST}")
    written, seen, _ = run(raising(failure))
    assert written.verdict is Verdict.FAIL and seen is failure


def test_a_test_that_asked_the_registry_itself_is_taken_at_its_word(run):
    failure = KnownDefect("of old", defect="OCTAVIA-X, OCTAVIA-Y")
    written, seen, _ = run(raising(failure))
    assert (written.verdict, written.defect) == (Verdict.KNOWN_DEFECT, "OCTAVIA-X, OCTAVIA-Y")
    assert seen is failure


def test_a_listener_that_fails_on_both_twins_is_no_defect_of_sriov(run):
    written, seen, _ = run(listener_broken(raising_call(errors.ResourceFault("this too"))))
    assert written.verdict is Verdict.FAIL
    assert written.observations["normal"] == "ERROR"
    assert "this too" in str(seen)


def test_every_other_exception_of_an_operation_passes_through():
    with pytest.raises(errors.QuotaExceeded):
        scene.operate("listener-create", raising_call(errors.QuotaExceeded("full")), None)
